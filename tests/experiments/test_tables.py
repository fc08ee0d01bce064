import re

import pytest
from sample_record import KNN, RECORD

from diffjax.report import (
    append_record,
    caption,
    difference_table,
    markdown_table,
    mean_ap_table,
)
from experiments.reporting.tables import fill_tables, main

README = "# Title\n\n<!-- table: a.jsonl -->\n<!-- /table -->\n\nThe end.\n"


@pytest.fixture
def folder(tmp_path):
    """Records with one file, `a.jsonl`, of one record."""
    append_record(tmp_path / "a.jsonl", RECORD)
    return tmp_path


def test_a_filled_table_is_between_its_marks(folder):
    table = (
        markdown_table(*mean_ap_table(RECORD["results"]))
        + "\n"
        + markdown_table(*difference_table(RECORD["results"]))
    )
    assert fill_tables(README, folder) == (
        "# Title\n\n<!-- table: a.jsonl -->\n\n"
        f"{table}\n<sub>{caption(RECORD)}</sub>\n\n"
        "<!-- /table -->\n\nThe end.\n"
    )


def test_filling_twice_changes_nothing(folder):
    once = fill_tables(README, folder)
    assert fill_tables(once, folder) == once


def test_the_last_record_replaces_the_table_of_an_older_one(folder):
    old = fill_tables(README, folder)
    append_record(folder / "a.jsonl", RECORD | {"results": [KNN], "seed": 4})
    new = fill_tables(old, folder)
    assert "seed 4" in new
    assert "seed 3" not in new
    assert "regional diffusion" not in new


def test_every_mark_has_the_table_of_its_file(folder):
    append_record(folder / "b.jsonl", RECORD | {"experiment": "other"})
    text = fill_tables(README + README.replace("a.jsonl", "b.jsonl"), folder)
    assert re.findall("<sub>([a-z]*):", text) == ["grocery", "other"]


def test_backslashes_of_a_record_are_preserved(folder):
    method = r"a\1\g<0>"
    append_record(folder / "a.jsonl", RECORD | {"results": [KNN | {"method": method}]})
    assert r"a\1\g&lt;0>" in fill_tables(README, folder)


def test_a_text_without_marks_is_unchanged(tmp_path):
    assert fill_tables("no table\n", tmp_path) == "no table\n"


@pytest.mark.parametrize(
    "text",
    [
        "<!-- table: a.jsonl -->\nno end",
        "no start <!-- /table -->",
        "<!-- table: ../a.jsonl -->\n<!-- /table -->",
        "<!-- table: a.txt -->\n<!-- /table -->",
        "<!-- table: a.jsonl -->\n" + README,
    ],
    ids=["no end", "no start", "folder", "no record file", "second start"],
)
def test_marks_that_do_not_pair_are_refused(folder, text):
    with pytest.raises(ValueError, match="<!-- /table -->"):
        fill_tables(text, folder)


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.jsonl"):
        fill_tables(README, tmp_path)
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(ValueError, match=r"a\.jsonl must hold a record"):
        fill_tables(README, tmp_path)


def test_program_checks_renews_and_then_finds_no_change(folder, capsys):
    readme = folder / "README.md"
    readme.write_text(README)
    words = [str(readme), str(folder)]
    assert main([*words, "--check"]) == 1
    assert readme.read_text() == README
    assert "out of date" in capsys.readouterr().err
    assert main(words) == 0
    assert readme.read_text() == fill_tables(README, folder)
    assert main([*words, "--check"]) == 0


def test_program_reports_an_error_in_one_line(folder, capsys):
    (folder / "README.md").write_text(README)
    (folder / "a.jsonl").write_text('{"cut')
    assert main([str(folder / "README.md"), str(folder)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "a.jsonl line 1" in error


def test_a_record_of_methods_and_measurements_gives_tables_of_both(tmp_path):
    mixed = RECORD | {"results": [KNN, {"regions": 60, "seconds": 0.5}]}
    append_record(tmp_path / "a.jsonl", mixed)
    text = fill_tables("<!-- table: a.jsonl -->\n<!-- /table -->\n", tmp_path)
    assert "| global k-NN |" in text
    assert "| regions | seconds |" in text
    assert "| 60      |     0.5 |" in text


def test_tables_of_a_text_show_the_values_of_the_paper(tmp_path):
    results = [KNN | {"paper_map": 0.277}, {"k": 5, "paper_map": None}]
    append_record(tmp_path / "a.jsonl", RECORD | {"results": results})
    text = fill_tables(README, tmp_path)
    assert "| global k-NN |     27.7 |      28.4 [26.0, 30.5] |         +0.7 |" in text
    assert "| 5   |        - |" in text
