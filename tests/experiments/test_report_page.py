import base64
import html.parser
import xml.etree.ElementTree as ET

import pytest

from diffjax.report import Table
from experiments.reporting._charts import Chart, Line, write_chart
from experiments.reporting.report import ReportSection, write_report

CARD = """Table 2: all methods.

Paper: two to four
points more.
Data: as it: says
Cost: minutes.
"""
HOSTILE = '"><script>x</script>&amp;'


class Reader(html.parser.HTMLParser):
    """Parser that collects elements and texts of a page."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self.open = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.text.append((self.open[-1], data))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    def texts(self, tag):
        return [text for name, text in self.text if name == tag]


@pytest.fixture(scope="module")
def chart(tmp_path_factory):
    """An SVG file, with a title that has to be escaped."""
    path = tmp_path_factory.mktemp("charts") / "chart"
    write_chart(path, Chart(HOSTILE, "x", "y", [Line("a", (1, 2), (3, 4))]))
    return path.with_suffix(".svg")


@pytest.fixture
def read(tmp_path):
    """Writes a report and reads it."""

    def write_and_read(*sections, title="A report"):
        write_report(tmp_path / "report.html", title, sections)
        return Reader((tmp_path / "report.html").read_text(encoding="utf-8"))

    return write_and_read


def test_contents_lead_to_every_section(read):
    page = read(ReportSection("First", ""), ReportSection("Second", ""))
    assert page.open == []
    assert page.texts("h1") == ["A report"]
    assert page.texts("h2") == page.texts("a") == ["First", "Second"]
    targets = [f"#{section['id']}" for section in page.all("section")]
    assert [link["href"] for link in page.all("a")] == targets
    assert len(set(targets)) == 2


def test_section_shows_its_text_tables_charts_and_caption(read, chart):
    table = Table(("method", "mAP"), (("a", "1.0"), ("b", "2.0")))
    page = read(ReportSection("One", "Some.", [table, table], [chart], "On two cores."))
    assert page.texts("p") == ["Some.", "On two cores."]
    assert page.texts("td") == ["1.0", "2.0"] * 2
    assert page.all("p")[-1] == {"class": "caption"}
    (picture,) = page.all("img")
    assert picture["alt"] == HOSTILE
    uri = picture["src"]
    data = base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,"))
    assert data == chart.read_bytes()
    assert ET.fromstring(data).tag.endswith("svg")  # noqa: S314  # Our own file.


def test_fields_of_a_card_are_paragraphs(read):
    assert read(ReportSection("Card", CARD)).texts("p") == [
        "Table 2: all methods.",
        "Paper: two to four\npoints more.",
        "Data: as it: says",
        "Cost: minutes.",
    ]


def test_markup_in_texts_is_escaped(read):
    table = Table((HOSTILE,), ((HOSTILE,),))
    page = read(
        ReportSection(HOSTILE, HOSTILE, [table], caption=HOSTILE), title=HOSTILE
    )
    assert page.open == []
    assert not page.all("script")
    for tag, count in {"title": 1, "h1": 1, "a": 1, "h2": 1, "p": 2, "th": 2}.items():
        assert page.texts(tag) == [HOSTILE] * count, tag


def test_report_needs_no_network_and_no_script(read, chart):
    page = read(ReportSection("One", "", charts=[chart]))
    assert not page.all("script")
    assert not page.all("link")
    (style,) = page.texts("style")
    assert "url(" not in style
    assert "http" not in style
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_equal_reports_are_equal_files(tmp_path, chart):
    for name in ("a", "b"):
        write_report(
            tmp_path / name, "t", [ReportSection("One", "Text.", charts=[chart])]
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_chart_without_a_title_is_named_by_its_file(read, tmp_path):
    path = tmp_path / "figure2.svg"
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    assert (
        read(ReportSection("One", "", charts=[path])).all("img")[0]["alt"] == "figure2"
    )


def test_bad_reports_are_refused_and_leave_the_old_file(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    (tmp_path / "chart.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match="sections must hold at least one section"):
        write_report(path, "t", [])
    with pytest.raises(ValueError, match=r"charts must be SVG files, got .*chart\.png"):
        write_report(
            path, "t", [ReportSection("a", "", charts=[tmp_path / "chart.png"])]
        )
    with pytest.raises(FileNotFoundError, match=r"none\.svg"):
        write_report(
            path, "t", [ReportSection("a", "", charts=[tmp_path / "none.svg"])]
        )
    assert path.read_text() == "old"
