"""Page of all tables and figures, from the records of the repository."""

import html
import importlib
import re

import pytest

from diffjax.report import read_records
from experiments._runner import RECORDS
from experiments.reporting.report import write_results_page

PAPER = re.compile(r"(figure\d|table\d|text|departures)(_.*)?")


def test_every_record_of_the_paper_has_its_card_tables_and_chart(tmp_path):
    path = tmp_path / "page.html"
    names = [p.stem for p in RECORDS.glob("*.jsonl") if PAPER.fullmatch(p.stem)]
    assert write_results_page(RECORDS, path) == len(names) >= 15
    page = path.read_text()
    assert page.count("<h2") == len(names)
    for name in names:
        card = importlib.import_module(f"configs.{name.split('_')[0]}").__doc__ or ""
        assert html.escape(card.partition("\n")[0].rstrip(".")) in page
        # The newest record, as its commit tells.
        assert (
            read_records(RECORDS / f"{name}.jsonl")[-1]["environment"]["commit"][:10]
            in page
        )
    charts = [name for name in names if (RECORDS / f"{name}.svg").is_file()]
    assert page.count("data:image/svg") == len(charts) >= 9


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(ValueError, match="records must hold results"):
        write_results_page(tmp_path, tmp_path / "page.html")
