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


# What stages need of each other, and may change without notice.
INTERNAL = {
    "data": "unpack_archive canvas_for fit_image fit_picture fitted_sizes Fitted "
    "read_fitted read_several start_reader as_picture load_part",
    "features": "efficientnet_lite0_path",
    "graph": "BLOCK_ROWS PROBES REFINED SAMPLED check_graph check_neighbors "
    "cluster_count padded_rows row_width",
    "learning": "check_parameters",
}


def test_every_public_name_is_on_the_map():
    listed = README.split("## Map of public names")[1].split("\n## ")[0]
    names = {("diffjax", name) for name in dir(diffjax)}
    for stub in (ROOT / "diffjax").glob("*/__init__.pyi"):
        stage = stub.parent.name
        own = set(re.findall(r" as (\w+)$", stub.read_text(), re.MULTILINE))
        if stage not in {"commands", "matlab", "native"}:
            names |= {(stage, n) for n in own - set(INTERNAL.get(stage, "").split())}
    assert len(names) > 300
    missing = [
        name for name in names if not re.search(rf"`[^`|]*\b{name[1]}\b", listed)
    ]
    assert not missing


def test_every_record_has_a_table():
    shown = README + (ROOT / "experiments" / "RESULTS.md").read_text()
    records = (ROOT / "experiments" / "records").glob("*.jsonl")
    names = sorted(path.name for path in records)
    assert names
    assert not [name for name in names if f"<!-- table: {name} -->" not in shown]


@pytest.mark.parametrize("name", ["README.md", "experiments/RESULTS.md"])
def test_no_heading_is_inside_of_a_block_of_code(name):
    inside, found = False, []
    for line in (ROOT / name).read_text().splitlines():
        if line.startswith("```"):
            # One that ends a block says no language, and one that begins it does.
            assert (line == "```") == inside
            inside = not inside
        elif inside and line.startswith("#"):
            found.append(line)
    assert not inside
    assert not found
