import base64
import errno
import html.parser
import io
import pathlib
import re

import numpy as np
import PIL.Image
import pytest
import skimage.data

from diffjax.report import Answer, Comparison, Ranking, Table, write_page

HOSTILE = "\"><script>alert('1')</script>&amp;<img src=x>\udcff\x00\u202e.jpg"


class Reader(html.parser.HTMLParser):
    """Collects what a browser would see of a page."""

    def __init__(self, page):
        super().__init__()
        self.elements = []  # (tag, attributes)
        self.text = []
        self.open = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append((self.open[-1] if self.open else "", data))

    def all(self, tag, **wanted):
        """Attributes of the elements with this tag and these attributes."""
        return [
            attrs
            for name, attrs in self.elements
            if name == tag and wanted.items() <= attrs.items()
        ]

    def texts(self, tag):
        """Text directly inside elements with this tag."""
        return [text for name, text in self.text if name == tag and text.strip()]


def picture(seed, height=60, width=80):
    """A picture of noise, [height, width, 3]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def ranking(*correct, name="diffusion", ap=None, first=1):
    """Ranking of different pictures, whose answers are right or wrong."""
    answers = [
        Answer(picture(first + i), f"scene {first + i}", 1 / (i + 1), judgement)
        for i, judgement in enumerate(correct)
    ]
    return Ranking(name, ap, tuple(answers))


def query(*rankings, box=None, shown=None):
    return Comparison(
        picture(0) if shown is None else shown, "the query", box, rankings
    )


@pytest.fixture
def read(tmp_path):
    """Writes a page of comparisons and reads it."""

    def write_and_read(*comparisons, title="A title", intro="An intro.", summary=()):
        write_page(
            tmp_path / "page.html",
            title=title,
            intro=intro,
            summary=summary,
            comparisons=comparisons,
        )
        return Reader((tmp_path / "page.html").read_text(encoding="utf-8"))

    return write_and_read


def test_page_shows_every_query_method_and_answer(read):
    page = read(
        query(ranking(True, False, name="k-NN"), ranking(True, True, name="new")),
        query(ranking(False, name="k-NN"), ranking(name="new")),
    )
    assert page.open == []
    assert page.texts("h1") == ["A title"]
    assert page.texts("h2") == ["Query 1", "Query 2"]
    assert [text for text in page.texts("bdi") if "scene" not in text] == [
        *("the query", "k-NN", "new"),
        *("the query", "k-NN", "new"),
    ]
    assert len(page.all("li")) == 5


def test_answers_are_marked_by_colour_by_sign_and_in_words(read):
    page = read(query(ranking(True, False, None)))
    assert [item["class"] for item in page.all("li")] == ["right", "wrong", "unknown"]
    assert "".join(page.texts("b")) == "✓✗" + "✓✗"  # The legend first.
    labels = [attrs["aria-label"] for attrs in page.all("svg", role="img")]
    assert labels == ["Query the query", "right: scene 1", "wrong: scene 2", "scene 3"]


def test_numpy_truth_counts_as_truth(read):
    page = read(query(ranking(np.True_, np.False_)))
    assert [item["class"] for item in page.all("li")] == ["right", "wrong"]


def test_answers_are_in_order_with_rank_and_score(read):
    page = read(query(ranking(None, None, None)))
    # The scores of `ranking` are 1, 1 / 2 and 1 / 3.
    assert page.texts("span")[-6:] == ["1", "1", "2", "0.5", "3", "0.333"]


def test_a_search_without_ground_truth_shows_no_marks_and_no_average_precision(read):
    page = read(query(ranking(None, None)))
    text = " ".join(text for tag, text in page.text if tag != "style")
    assert not re.search("[✓✗]|AP|right|wrong", text)


def test_the_best_average_precision_is_highlighted(read):
    page = read(query(ranking(True, ap=0.355), ranking(True, ap=0.9), ranking(True)))
    assert len(page.all("span", **{"class": "ap"})) == 1
    assert len(page.all("span", **{"class": "ap best"})) == 1
    assert "AP 35.5 %" in page.texts("span")
    assert "AP 90.0 %" in page.texts("span")


def test_notes_are_below_their_pictures(read):
    first, second = ranking(True, False).answers
    noted = Ranking("noted", 0.5, (first._replace(note="P@1 100 %"), second))
    page = read(query(noted, ranking(True, ap=1.0)))
    assert [text for text in page.texts("bdi") if "@" in text] == ["P@1 100 %"]
    assert page.all("bdi", **{"class": "note"}) == [{"class": "note"}]


def test_box_is_drawn_in_the_coordinates_of_the_original_picture(read):
    page = read(
        query(ranking(None), box=(10, 20, 40, 50.5), shown=picture(0, 600, 800))
    )
    rectangle = {"x": "10", "y": "20", "width": "30", "height": "30.5"}
    assert page.all("rect", **{"class": "box"}) == [{"class": "box"} | rectangle]
    assert page.all("svg", role="img")[0]["viewbox"] == "0 0 800 600"
    embedded = page.all("image")[0]
    assert (embedded["width"], embedded["height"]) == ("800", "600")


def test_embedded_picture_looks_like_the_original(read):
    smooth = np.zeros((300, 400, 3), np.uint8)
    smooth[:, :, 0] = np.linspace(0, 255, 400, dtype=np.uint8)
    smooth[:, :, 1] = np.linspace(0, 255, 300, dtype=np.uint8)[:, None]
    page = read(query(Ranking("a", None, (Answer(smooth, "s", 1.0),))))
    uri = page.all("image")[1]["href"]
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    with PIL.Image.open(io.BytesIO(data)) as shown:
        assert shown.size == (213, 160)  # 400 x 300 within 240 x 160.
        got = np.asarray(shown.resize((400, 300)), float)
    # Quality 75 and the shrinking cost a few grey levels of 255.
    assert np.abs(got - smooth).mean() < 4


def test_repeated_picture_is_embedded_once(read):
    repeated = ranking(True, True)
    page = read(query(repeated, repeated), query(repeated, repeated))
    # Queries and answers are embedded in two sizes, so the query's picture counts too.
    assert len(page.all("image")) == 1 + 2
    assert len(page.all("use")) == 2 + 8
    embedded = {f"#{image['id']}" for image in page.all("image")}
    assert {use["href"] for use in page.all("use")} == embedded


def test_markup_in_names_is_escaped(read):
    answers = (Answer(picture(1), HOSTILE, 1.0, correct=True, note=HOSTILE),)
    page = read(
        Comparison(picture(0), HOSTILE, None, (Ranking(HOSTILE, 0.5, answers),)),
        title=HOSTILE,
        intro=HOSTILE,
        summary=[Table((HOSTILE, HOSTILE), ((HOSTILE, HOSTILE),))],
    )
    assert page.open == []
    assert not page.all("script")
    assert not page.all("img")
    shown = HOSTILE.replace("\udcff", "?")
    for tag, count in {"title": 1, "h1": 1, "p": 1, "th": 3, "td": 1, "bdi": 4}.items():
        assert page.texts(tag).count(shown) == count, tag
    labels = [picture["aria-label"] for picture in page.all("svg", role="img")]
    assert labels == [f"Query {shown}", f"right: {shown}"]


def test_a_page_has_no_scripts_and_no_external_resources(read):
    page = read(query(ranking(True, ap=1.0)))
    assert not page.all("script")
    assert not page.all("link")
    links = [
        value
        for _, attrs in page.elements
        for name, value in attrs.items()
        if name in {"href", "src", "xlink:href"}
    ]
    assert links
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    (style,) = page.texts("style")
    assert "prefers-color-scheme: dark" in style
    assert not re.search(r"url\(|@import|http", style)
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy[0]["content"]


def test_intro_has_paragraphs_and_summary_is_a_table(read):
    page = read(
        query(ranking(None)),
        intro="One.\n\nTwo\nlines.\n\n",
        summary=[Table(("method", "mAP"), (("a", "1.0"), ("b", "2.0")))],
    )
    assert page.texts("p") == ["One.", "Two\nlines."]
    assert page.texts("th") == ["method", "mAP", "a", "b"]
    assert page.texts("td") == ["1.0", "2.0"]


def test_equal_input_gives_equal_bytes(tmp_path):
    for name in ("a.html", "b.html"):
        write_page(
            tmp_path / name, title="t", intro="", comparisons=[query(ranking(True))]
        )
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_photograph_takes_at_most_12_kilobytes(read):
    # Twenty queries with two methods of ten answers are 420 pictures: 5 megabytes.
    photographs = [skimage.data.astronaut(), skimage.data.coffee()]
    crops = [
        photograph[y : y + 240, x : x + 320]
        for photograph in photographs
        for y in (0, 80, 160)
        for x in (0, 96, 190)
    ]
    answers = (Answer(crop, "s", 1.0, correct=True) for crop in crops)
    page = read(query(Ranking("a", 0.5, tuple(answers))))
    sizes = [len(image["href"]) for image in page.all("image")[1:]]
    assert len(sizes) == len(crops)
    assert np.mean(sizes) < 12_000


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16", "1"])
def test_pictures_of_other_modes_are_shown(read, mode):
    shown = PIL.Image.new(mode, (40, 30))
    page = read(query(ranking(None), shown=shown))
    assert page.all("svg", role="img")[0]["viewbox"] == "0 0 40 30"


def test_the_caller_s_pictures_are_not_changed(read):
    shown = PIL.Image.fromarray(picture(3, 900, 1200))
    before = shown.tobytes()
    read(query(ranking(None), shown=shown))
    assert shown.size == (1200, 900)
    assert shown.tobytes() == before


def test_one_pixel_and_very_long_pictures_are_shown(read):
    page = read(
        query(ranking(None), shown=picture(0, 1, 1)),
        query(ranking(None), shown=picture(0, 1, 3000)),
        query(ranking(None), shown=picture(0, 3000, 1)),
    )
    assert len(page.all("section")) == 3


def test_query_without_methods_or_answers_is_shown(read):
    page = read(query(), query(Ranking("none", 0.0, ())))
    assert len(page.all("figure")) == 2


def test_only_query_has_no_number(read):
    assert read(query(ranking(None))).texts("h2") == ["Query"]


def test_a_page_is_replaced_atomically(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    bad = Answer(np.zeros((0, 4, 3), np.uint8), "empty", 1.0)
    with pytest.raises(ValueError, match="picture must have pixels"):
        write_page(
            path,
            title="t",
            intro="",
            comparisons=[query(ranking(True)), query(Ranking("a", None, (bad,)))],
        )
    assert path.read_text() == "old"
    write_page(path, title="t", intro="", comparisons=[query(ranking(True))])
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_full_disk_leaves_the_old_page_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("old")

    def write_half(self, data):
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", write_half)
    with pytest.raises(OSError, match="No space left"):
        write_page(path, title="t", intro="", comparisons=[query(ranking(True))])
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_a_folder_in_the_place_of_a_page_is_an_error_without_leftovers(tmp_path):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(OSError, match=r"page\.html"):
        write_page(
            tmp_path / "page.html", title="t", intro="", comparisons=[query(ranking())]
        )
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    "bad",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))],
    ids=["grey", "alpha", "float"],
)
def test_other_arrays_than_pictures_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match=r"picture must be uint8 of shape \[h, w, 3\]"):
        write_page(
            tmp_path / "p.html", title="", intro="", comparisons=[query(shown=bad)]
        )


def test_page_without_comparisons_is_refused(tmp_path):
    with pytest.raises(ValueError, match="comparisons must hold at least one query"):
        write_page(tmp_path / "page.html", title="t", intro="", comparisons=[])


@pytest.mark.parametrize("ap", [-0.1, 84.5, float("nan")])
def test_average_precision_out_of_range_is_refused(read, ap):
    with pytest.raises(ValueError, match="ap must be in"):
        read(query(ranking(True, ap=ap)))
