import pathlib
import re

import pytest

import diffjax
from diffjax.report import fill_tables

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ["README.md", "experiments/RESULTS.md"])
def test_tables_are_those_of_the_newest_records(name):
    text = (ROOT / name).read_text()
    assert "<!-- table: " in text
    assert fill_tables(text, ROOT / "experiments" / "records") == text


def test_the_two_commands_come_first_and_ci_runs_the_second():
    demo, tests = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)[:2]
    assert "diffjax demo" in demo
    assert "pytest" in tests
    script = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in script
    assert "pytest" not in script  # It has no test command of its own.
    assert len(script.splitlines()) < 40


def test_every_public_name_is_on_the_map():
    listed = README.split("## Map of public names")[1].split("\n## ")[0]
    missing = [name for name in dir(diffjax) if not re.search(rf"`{name}\b", listed)]
    assert not missing
