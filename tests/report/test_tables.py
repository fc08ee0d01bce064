import pytest
from sample_record import DIFFUSION, KNN, RECORD

from diffjax.report import (
    caption,
    difference_table,
    escape_markdown,
    markdown_table,
    mean_ap_table,
    measurement_tables,
    text_table,
)

R_MATCH = {"method": "R-match", "mean_ap": 0.561, "low": 0.53, "high": 0.6}
FIRST = {"precision_at_10": 0.5, "recall_at_100": 0.25, "expected_ap": 0.5}


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


def test_columns_without_values_are_left_out():
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
def test_values_other_than_fractions_are_refused(bad):
    with pytest.raises(ValueError, match="mean_ap, low, high must be in"):
        mean_ap_table([KNN | {"mean_ap": bad}])


def test_caption_names_the_conditions_of_the_numbers():
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
def test_caption_names_the_cost(cost, text):
    assert text in caption(RECORD | cost)


def test_other_measurements_have_tables_of_their_own():
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


def test_the_first_answers_have_columns_of_their_own():
    table = mean_ap_table([{**KNN, **FIRST, "expected_ap": KNN["mean_ap"]}])
    assert table.header[-2:] == ("mP@10, %", "recall@100, %")
    assert table.rows[0][-2:] == ("50.0", "25.0")


def test_ties_are_shown_where_they_change_the_rounded_mean():
    near = KNN["mean_ap"] + 1e-5
    equal = mean_ap_table([{**KNN, **FIRST, "expected_ap": near}])
    assert "with ties at random, %" not in equal.header
    lower = {**KNN, **FIRST, "expected_ap": KNN["mean_ap"] - 0.01}
    table = mean_ap_table([{**KNN, **FIRST, "expected_ap": near}, lower])
    column = table.header.index("with ties at random, %")
    assert [row[column] for row in table.rows] == [
        f"{100 * near:.1f}",
        f"{100 * lower['expected_ap']:.1f}",
    ]


def test_the_cost_of_tuning_is_a_whole_number_of_solves():
    table = mean_ap_table([{**KNN, "solves": 1243.5, "chosen": "alpha 0.98"}])
    assert table.header[-2:] == ("solves", "settings")
    assert table.rows[0][-2:] == ("1,244", "alpha 0.98")


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.012345, "0.0123"), (998.6, "999"), (999.7, "1,000"), (-1234.5, "-1,234")],
)
def test_large_numbers_are_written_without_powers_of_ten(value, written):
    (table,) = measurement_tables([{"name": "a", "bytes": value}])
    assert table.rows == (("a", written),)


def test_a_difference_from_the_paper_is_that_of_the_rounded_values():
    results = [
        R_MATCH | {"paper_map": 0.555, "nearest_mean_ap": 0.4},
        R_MATCH | {"mean_ap": 0.4714, "paper_map": 0.4705, "paper_cited": True},
        R_MATCH | {"mean_ap": 0.5549, "paper_map": 0.5551},
        R_MATCH | {"paper_map": None},
        R_MATCH,
    ]
    header, rows = mean_ap_table(results)
    assert header == (
        *("method", "paper, % († cited)", "k-NN mAP, %"),
        *("mAP, % [95 % interval]", "ours - paper"),
    )
    assert [row[1] for row in rows] == ["55.5", "47.0†", "55.5", "-", ""]
    # 56.1 - 55.5; 47.1 - 47.0; 55.5 - 55.5, with a plus.
    assert [row[4] for row in rows] == ["+0.6", "+0.1", "+0.0", "-", ""]


@pytest.mark.parametrize("bad", [55.5, -0.1, float("nan")])
def test_values_of_the_paper_other_than_fractions_are_refused(bad):
    with pytest.raises(ValueError, match="paper_map must be in"):
        mean_ap_table([KNN | {"paper_map": bad}])


def test_text_of_a_caption_is_escaped_in_markdown():
    assert escape_markdown("a <b> &\n c|d") == "a &lt;b> &amp; c\\|d"
