import pathlib
import re

import pytest

from experiments.reporting.reference import reference_pages
from experiments.reporting.tables import fill_tables

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "docs").rglob("*.md")
        if "records" not in path.parts
    ),
]


def test_tables_are_those_of_the_newest_records():
    texts = {name: (ROOT / name).read_text() for name in PAGES}
    filled = [name for name, text in texts.items() if "<!-- table: " in text]
    assert len(filled) > 5
    for name in filled:
        assert fill_tables(texts[name], ROOT / "experiments" / "records") == texts[name]


def test_the_two_commands_come_first_and_ci_runs_the_second():
    demo, tests = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)[:2]
    assert "diffjax demo" in demo
    assert "pytest" in tests
    script = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in script
    assert "pytest" not in script  # It has no test command of its own.
    assert len(script.splitlines()) < 40


def test_the_readme_is_a_front_door():
    assert len(README.splitlines()) <= 150
    assert len(re.findall(r"^```(?:sh|bash|shell|console)$", README, re.MULTILINE)) == 2


def test_every_record_has_a_table():
    shown = "".join((ROOT / name).read_text() for name in PAGES)
    records = (ROOT / "experiments" / "records").glob("*.jsonl")
    names = sorted(path.name for path in records)
    assert names
    assert not [name for name in names if f"<!-- table: {name} -->" not in shown]


def test_the_reference_has_every_public_name():
    folder = ROOT / "docs" / "reference"
    pages = reference_pages()
    assert sorted(path.name for path in folder.glob("*.md")) == sorted(pages)
    stale = [n for n, text in pages.items() if (folder / n).read_text() != text]
    assert not stale, "write them again: python -m experiments reference"
    entries = "".join(path.read_text() for path in folder.glob("*.md"))
    for stub in (ROOT / "diffjax").glob("*/__init__.pyi"):
        names = re.findall(r"as ([A-Z]?[a-z]\w*)$", stub.read_text(), re.MULTILINE)
        if stub.parent.name not in {"cli", "matlab", "native"}:
            stage = rf"diffjax\.{stub.parent.name}\.\w+"
            missing = [n for n in names if not re.search(rf"{stage}\.{n}\n", entries)]
            assert not missing, stub


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_somewhere(name):
    page = ROOT / name
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert not [link for link in local if not (page.parent / link).exists()]


@pytest.mark.parametrize("name", PAGES)
def test_no_heading_is_inside_of_a_block_of_code(name):
    inside, headings = False, []
    for line in (ROOT / name).read_text().splitlines():
        if line.startswith("```"):
            # One that ends a block says no language, and one that begins it does.
            assert (line == "```") == inside
            inside = not inside
        elif inside and line.startswith("# "):
            headings.append(line)
    assert not inside
    assert not headings
