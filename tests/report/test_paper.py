import pytest

from diffjax.report import Table, append_record, fill_tables, mean_ap_table
from diffjax.report._paper import Cited, paper_table

R_MATCH = {"method": "R-match", "mean_ap": 0.561, "low": 0.53, "high": 0.6}
KNN = {"method": "k-NN", "mean_ap": 0.471, "low": 0.44, "high": 0.5}
PAPER = {"CroW": None, "k-NN": 47.7, "R-match": 55.5}
OXFORD = {"R-match": 81.5, "CroW": Cited(68.2)}


def test_each_method_has_the_papers_value_ours_and_the_difference():
    assert paper_table([R_MATCH, KNN], PAPER) == Table(
        ("method", "paper, %", "ours, % [95 % interval]", "ours - paper"),
        (
            ("R-match", "55.5", "56.1 [53.0, 60.0]", "+0.6"),
            ("k-NN", "47.7", "47.1 [44.0, 50.0]", "-0.6"),
            ("CroW", "-", "-", "-"),
        ),
    )


def test_other_data_sets_stand_beside_it_and_cited_values_are_marked():
    header, rows = paper_table([R_MATCH], {"R-match": 55.5}, others={"oxford": OXFORD})
    assert header[1:4] == (
        *("paper, %", "paper, oxford, % († cited)", "ours, % [95 % interval]"),
    )
    assert rows == (
        ("R-match", "55.5", "81.5", "56.1 [53.0, 60.0]", "+0.6"),
        ("CroW", "-", "68.2†", "-", "-"),
    )


def test_where_the_paper_has_not_the_data_set_there_is_no_difference():
    header, rows = paper_table([KNN], {}, others={"oxford": {"k-NN": 77.7}})
    assert header == ("method", "paper, oxford, %", "ours, % [95 % interval]")
    assert [row[:2] for row in rows] == [("k-NN", "77.7")]


def test_methods_of_ours_alone_have_dashes():
    (row,) = paper_table([KNN], {"k-NN": None}).rows
    assert (row[1], row[3]) == ("-", "-")
    own, other = paper_table([KNN], {"R-match": 55.5}).rows
    assert (own[0], own[1], own[3]) == ("k-NN", "-", "-")
    assert other[:3] == ("R-match", "55.5", "-")


def test_times_are_shown_where_one_was_measured():
    timed = R_MATCH | {"seconds_per_query": 0.321}
    header, rows = paper_table([timed, KNN], PAPER)
    assert header[-1] == "time a query"
    assert [row[-1] for row in rows] == ["321 ms", "", ""]


def test_difference_is_that_of_the_numbers_as_shown():
    # 47.14 - 47.05 is 0.09, but a reader sees 47.1 and 47.0 or 47.1.
    (row,) = paper_table([KNN | {"mean_ap": 0.4714}], {"k-NN": 47.05}).rows
    assert row[3] == f"{round(47.1 - float(row[1]), 1):+.1f}"


def test_difference_of_nothing_has_a_plus():
    same = KNN | {"mean_ap": 0.4768}  # 47.7 as shown.
    assert paper_table([same], PAPER).rows[0][3] == "+0.0"


@pytest.mark.parametrize("bad", [-1, 100.1, float("nan"), Cited(682.0)])
def test_values_that_are_no_percentages_are_refused(bad):
    with pytest.raises(ValueError, match=r"a paper's mAP must be in \[0, 100\] %"):
        paper_table([KNN], {"k-NN": bad})


def test_bad_results_are_refused():
    with pytest.raises(ValueError, match="mean_ap, low, high must be in"):
        paper_table([KNN | {"mean_ap": 47.0}], PAPER)
    with pytest.raises(ValueError, match="results must have 'low'"):
        paper_table([{"method": "k-NN", "mean_ap": 0.5}], PAPER)
    with pytest.raises(ValueError, match="results must name each method once"):
        paper_table([KNN, KNN], PAPER)


def test_results_that_carry_the_papers_value_are_compared_with_it():
    results = [
        R_MATCH | {"paper_map": 0.555, "nearest_mean_ap": 0.4},
        KNN | {"paper_map": 0.477, "paper_cited": True},
        KNN | {"method": "new", "paper_map": None},
        KNN | {"method": "other"},
    ]
    header, rows = mean_ap_table(results)
    assert header == (
        *("method", "paper, % († cited)", "k-NN mAP, %"),
        *("mAP, % [95 % interval]", "ours - paper"),
    )
    assert [row[1] for row in rows] == ["55.5", "47.7†", "-", ""]
    assert [row[4] for row in rows] == ["+0.6", "-0.6", "-", ""]


@pytest.mark.parametrize("bad", [55.5, -0.1, float("nan")])
def test_papers_values_that_are_no_fractions_are_refused(bad):
    with pytest.raises(ValueError, match="paper_map must be in"):
        mean_ap_table([KNN | {"paper_map": bad}])


def test_tables_of_a_text_show_the_papers_values(tmp_path):
    record = {
        "experiment": "table 2",
        "settings": {},
        "seed": 0,
        "environment": {
            "versions": {},
            "device": "cpu",
            "device_count": 1,
            "cpu_count": 2,
            "commit": None,
            "time": "2031-02-03T04:05:06+00:00",
        },
        "results": [R_MATCH | {"paper_map": 0.555}, {"k": 5, "paper_map": None}],
    }
    append_record(tmp_path / "a.jsonl", record)
    text = fill_tables("<!-- table: a.jsonl -->\n<!-- /table -->\n", tmp_path)
    assert "| R-match |     55.5 |      56.1 [53.0, 60.0] |         +0.6 |" in text
    assert "| 5   |        - |" in text
