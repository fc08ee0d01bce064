import re
import subprocess
import sys

import pytest

from diffjax.report import (
    append_record,
    caption,
    difference_table,
    fill_tables,
    markdown_table,
    mean_ap_table,
    measurement_tables,
    text_table,
)
from diffjax.report.__main__ import main

KNN = {"method": "global k-NN", "mean_ap": 0.284, "low": 0.26, "high": 0.305}
DIFFUSION = {
    "method": "regional diffusion",
    "mean_ap": 0.561,
    "low": 0.54,
    "high": 0.582,
    "differences": [
        {"against": "global k-NN", "mean": 0.277, "low": 0.25, "high": 0.31}
    ],
    "seconds_per_query": 0.0442,
}
RECORD = {
    "experiment": "grocery",
    "settings": {"images": 2640, "queries": 781, "k": 50, "cg": {"max_steps": 20}},
    "seed": 3,
    "environment": {
        "versions": {"faiss": None, "jax": "0.9.2", "python": "3.11.2"},
        "device": "cpu",
        "device_count": 1,
        "cpu_count": 2,
        "commit": "0123456789" * 4 + "-dirty",
        "time": "2031-02-03T04:05:06+00:00",
    },
    "results": [KNN, DIFFUSION],
}
README = "# Title\n\n<!-- table: a.jsonl -->\n<!-- /table -->\n\nThe end.\n"


@pytest.fixture
def folder(tmp_path):
    """Records with one file, `a.jsonl`, of one record."""
    append_record(tmp_path / "a.jsonl", RECORD)
    return tmp_path


def test_markdown_columns_are_aligned():
    assert markdown_table(["method", "mAP"], [["a", "9.5"], ["b c", "84.5"]]) == (
        "| method |  mAP |\n| ------ | ---: |\n| a      |  9.5 |\n| b c    | 84.5 |\n"
    )


def test_plain_columns_are_aligned():
    assert text_table(["method", "mAP"], [["a", "9.5"], ["b c", "84.5"]]) == (
        "method   mAP\n"
        "------  ----\n"
        "a        9.5\n"
        "b c     84.5\n"
    )  # fmt: skip


def test_cells_cannot_break_the_table():
    line = markdown_table(["x"], [["a|b\n<!-- /table -->&"]]).splitlines()[2]
    assert line == "| a\\|b &lt;!-- /table -->&amp; |"


@pytest.mark.parametrize("table", [markdown_table, text_table])
def test_table_without_rows_is_a_header(table):
    assert len(table(["a", "b"], []).splitlines()) == 2


@pytest.mark.parametrize("table", [markdown_table, text_table])
def test_ragged_rows_and_missing_columns_are_refused(table):
    with pytest.raises(ValueError, match="rows must have 2 cells each"):
        table(["a", "b"], [["1"]])
    with pytest.raises(ValueError, match="header must name at least one column"):
        table([], [])


def test_mean_ap_is_in_percent_with_one_decimal_and_interval():
    header, rows = mean_ap_table(RECORD["results"])
    assert header == (
        "method",
        "mAP, % [95 % interval]",
        "time a query",
    )
    assert rows == (
        ("global k-NN", "28.4 [26.0, 30.5]", ""),
        ("regional diffusion", "56.1 [54.0, 58.2]", "44 ms"),
    )


def test_columns_that_no_method_fills_are_left_out():
    header, rows = mean_ap_table([KNN])
    assert header == ("method", "mAP, % [95 % interval]")
    assert rows == (("global k-NN", "28.4 [26.0, 30.5]"),)


def test_each_difference_is_a_row_that_names_both_methods():
    other = {"against": "R-match", "mean": -0.1, "low": -0.2, "high": 0.31}
    both = [*DIFFUSION["differences"], other]
    header, rows = difference_table([KNN, DIFFUSION | {"differences": both}])
    assert header == ("method", "difference in mAP, % [95 % interval]")
    assert rows == (
        ("regional diffusion", "+27.7 [+25.0, +31.0] from global k-NN"),
        ("regional diffusion", "-10.0 [-20.0, +31.0] from R-match"),
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *[(0.0042, "4.2 ms"), (0.1234, "123 ms"), (1.0, "1.0 s"), (12.34, "12.3 s")],
        *[(119.0, "119.0 s"), (150.0, "2.5 min"), (7200.0, "2.0 h")],
    ],
)
def test_times_are_in_readable_units(seconds, text):
    assert mean_ap_table([KNN | {"seconds_per_query": seconds}]).rows[0][2] == text


@pytest.mark.parametrize("missing", ["method", "mean_ap", "low", "high"])
def test_result_that_lacks_an_entry_is_refused(missing):
    result = {name: value for name, value in KNN.items() if name != missing}
    with pytest.raises(ValueError, match=f"results must have '{missing}'"):
        mean_ap_table([result])


@pytest.mark.parametrize("bad", [28.4, -0.1, float("nan")])
def test_values_that_are_no_fractions_are_refused(bad):
    with pytest.raises(ValueError, match="mean_ap, low, high must be in"):
        mean_ap_table([KNN | {"mean_ap": bad}])


def test_caption_names_what_the_numbers_rest_on():
    assert caption(RECORD) == (
        "grocery: 781 queries over 2,640 images; cg.max_steps 20, k 50; seed 3; "
        "jax 0.9.2, python 3.11.2; 1 x cpu, 2 CPU cores; commit 0123456789-dirty; "
        "recorded 2031-02-03."
    )


def test_caption_outside_a_clone_and_without_settings():
    where = RECORD["environment"] | {"commit": None}
    text = caption(RECORD | {"settings": {}, "environment": where})
    assert text.startswith("grocery: seed 3;")
    assert "no commit" in text


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        ({"seconds": 93.4}, "; took 93.4 s; recorded"),
        ({"peak_memory_bytes": 310_000_000}, "; peak memory 310 MB; recorded"),
        (
            {"seconds": 2100.0, "peak_memory_bytes": 12_340_000_000},
            "; took 35.0 min, peak memory 12.3 GB; recorded",
        ),
    ],
)
def test_caption_names_what_it_took(cost, text):
    assert text in caption(RECORD | cost)


def test_filled_table_stands_between_its_marks(folder):
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


def test_last_record_replaces_the_table_of_an_older_one(folder):
    old = fill_tables(README, folder)
    append_record(folder / "a.jsonl", RECORD | {"results": [KNN], "seed": 4})
    new = fill_tables(old, folder)
    assert "seed 4" in new
    assert "seed 3" not in new
    assert "regional diffusion" not in new


def test_each_mark_gets_its_own_file(folder):
    append_record(folder / "b.jsonl", RECORD | {"experiment": "other"})
    text = fill_tables(README + README.replace("a.jsonl", "b.jsonl"), folder)
    assert re.findall("<sub>([a-z]*):", text) == ["grocery", "other"]


def test_backslashes_of_a_record_are_kept(folder):
    method = r"a\1\g<0>"
    append_record(folder / "a.jsonl", RECORD | {"results": [KNN | {"method": method}]})
    assert r"a\1\g&lt;0>" in fill_tables(README, folder)


def test_text_without_marks_is_left_alone(tmp_path):
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


def test_program_checks_renews_and_then_finds_nothing_to_do(folder, capsys):
    readme = folder / "README.md"
    readme.write_text(README)
    words = [str(readme), str(folder)]
    assert main([*words, "--check"]) == 1
    assert readme.read_text() == README
    assert "out of date" in capsys.readouterr().err
    assert main(words) == 0
    assert readme.read_text() == fill_tables(README, folder)
    assert main([*words, "--check"]) == 0


def test_program_says_in_one_line_what_is_wrong(folder):
    (folder / "README.md").write_text(README)
    (folder / "a.jsonl").write_text('{"cut')
    command = [sys.executable, "-m", "diffjax.report", "README.md", "."]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "a.jsonl line 1" in done.stderr


def test_measurements_that_are_no_methods_stand_in_tables_of_their_own():
    first, second = measurement_tables(
        [
            KNN,
            {"solver": "cg", "mean_ap": 0.1234, "residual": 1.23456e-7, "steps": 1200},
            {"gradient": "y", "ratio": 2.3456},
            {"solver": "iterate", "mean_ap": 1.0, "residual": 0.5, "steps": 3},
        ]
    )
    assert first.header == ("solver", "mAP, %", "residual", "steps")
    assert first.rows == (
        ("cg", "12.3", "1.23e-07", "1,200"),
        ("iterate", "100.0", "0.5", "3"),
    )
    assert second == (("gradient", "ratio"), (("y", "2.35"),))


def test_a_record_of_methods_and_measurements_gives_tables_of_both(tmp_path):
    mixed = RECORD | {"results": [KNN, {"regions": 60, "seconds": 0.5}]}
    append_record(tmp_path / "a.jsonl", mixed)
    text = fill_tables("<!-- table: a.jsonl -->\n<!-- /table -->\n", tmp_path)
    assert "| global k-NN |" in text
    assert "| regions | seconds |" in text
    assert "| 60      |     0.5 |" in text


FIRST = {"precision_at_10": 0.5, "recall_at_100": 0.25, "expected_ap": 0.5}


def test_the_first_answers_have_columns_of_their_own():
    table = mean_ap_table([{**KNN, **FIRST, "expected_ap": KNN["mean_ap"]}])
    assert table.header[-2:] == ("mP@10, %", "recall@100, %")
    assert table.rows[0][-2:] == ("50.0", "25.0")


def test_ties_are_shown_where_they_change_what_is_shown():
    near = KNN["mean_ap"] + 1e-5
    alike = mean_ap_table([{**KNN, **FIRST, "expected_ap": near}])
    assert "with ties at random, %" not in alike.header
    apart = {**KNN, **FIRST, "expected_ap": KNN["mean_ap"] - 0.01}
    table = mean_ap_table([{**KNN, **FIRST, "expected_ap": near}, apart])
    column = table.header.index("with ties at random, %")
    assert [row[column] for row in table.rows] == [
        f"{100 * near:.1f}",
        f"{100 * apart['expected_ap']:.1f}",
    ]


def test_what_learning_took_is_a_whole_number_of_solves():
    table = mean_ap_table([{**KNN, "solves": 1243.5, "chosen": "alpha 0.98"}])
    assert table.header[-2:] == ("solves", "settings")
    assert table.rows[0][-2:] == ("1,244", "alpha 0.98")


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.012345, "0.0123"), (998.6, "999"), (999.7, "1,000"), (-1234.5, "-1,234")],
)
def test_large_numbers_are_written_without_powers_of_ten(value, written):
    (table,) = measurement_tables([{"way": "a", "bytes": value}])
    assert table.rows == (("a", written),)
