import pathlib
import re

from diffjax import __all__ as public
from diffjax.report import fill_tables

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_tables_are_those_of_the_newest_records():
    assert fill_tables(README, ROOT / "experiments" / "records") == README


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
    missing = [name for name in public if not re.search(rf"`{name}\b", listed)]
    assert not missing
