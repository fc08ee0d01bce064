import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from diffjax.report import Answer, Comparison, Ranking
from experiments.reporting._figure import write_figure

GREEN, RED = (0x12, 0x89, 0x4A), (0xC8, 0x40, 0x4A)
BLUE, YELLOW = (0, 0, 255), (0xFF, 0xD2, 0x1F)


def flat(color, height=60, width=80):
    """Picture of one colour."""
    return np.broadcast_to(np.uint8(color), (height, width, 3)).copy()


def ranking(*correct, name="a method", ap=None):
    answers = (Answer(flat((90, 90, 90)), "answer", 1.0, known) for known in correct)
    return Ranking(name, ap, tuple(answers))


def query(*rankings, box=None, shown=None):
    shown = flat(BLUE) if shown is None else shown
    return Comparison(shown, "the query", box, rankings)


@pytest.fixture
def draw(tmp_path):
    """Draws a figure and reads it as [height, width, 3]."""

    def draw_and_read(comparison, **words):
        write_figure(tmp_path / "figure.png", comparison, **words)
        with PIL.Image.open(tmp_path / "figure.png") as picture:
            assert picture.format == "PNG"
            return np.asarray(picture.convert("RGB")).astype(int)

    return draw_and_read


def where(figure, color):
    """Mask of the pixels of a colour, [height, width]."""
    return (np.abs(figure - np.array(color)) <= 3).all(-1)


def count_runs(line):
    """Counts the runs of true values in a line."""
    return int(line[0]) + int((np.diff(line.astype(int)) == 1).sum())


def test_each_answer_has_a_frame_of_the_colour_of_its_correctness(draw):
    figure = draw(query(ranking(True, False, True), ranking(False, True, False)))
    lower = figure.shape[0] // 2
    for color, expected in ((GREEN, (2, 1)), (RED, (1, 2))):
        # A frame's upper and lower edge are the longest runs of its colour.
        got = where(figure, color)
        rows = got[:lower], got[lower:]
        tops = [row[np.argmax(row.sum(1))] for row in rows]
        assert tuple(map(count_runs, tops)) == expected


def test_answers_of_unknown_truth_have_neither_colour(draw):
    figure = draw(query(ranking(None, None)))
    assert not where(figure, GREEN).any()
    assert not where(figure, RED).any()


def test_the_query_keeps_its_shape_left_of_the_answers_at_their_height(draw):
    figure = draw(query(ranking(True), ranking(True), shown=flat(BLUE, 60, 90)))
    rows, columns = np.nonzero(where(figure, BLUE))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    np.testing.assert_allclose(width / height, 90 / 60, rtol=0.02)
    frames = np.nonzero(where(figure, GREEN))
    assert columns.max() < frames[1].min()
    assert abs(rows.min() - frames[0].min()) < 10  # A frame is 6 pixels wide.


def test_the_box_is_drawn_at_its_coordinates(draw):
    figure = draw(query(ranking(None), box=(20, 30, 60, 45)))
    outer = np.nonzero(where(figure, BLUE))
    inner = np.nonzero(where(figure, YELLOW))
    got = [
        (edge - outer[axis].min()) / (np.ptp(outer[axis]) + 1)
        for axis in (1, 0)
        for edge in (inner[axis].min(), inner[axis].max() + 1)
    ]
    # The picture is 80 wide and 60 high; the line is a few pixels of hundreds wide.
    np.testing.assert_allclose(got, [20 / 80, 60 / 80, 30 / 60, 45 / 60], atol=0.02)


def test_notes_are_below_the_frames_and_make_the_figure_higher(draw):
    bare = ranking(True, True)
    first, second = bare.answers
    noted = bare._replace(answers=(first._replace(note="P@1 100 %"), second))
    before, after = draw(query(bare, bare)), draw(query(noted, noted))
    assert after.shape[0] > before.shape[0]
    assert where(before, GREEN).sum() == where(after, GREEN).sum()
    # Ink between the lower edges of the frames and the next heading, left half.
    lower = np.nonzero(where(after, GREEN)[: after.shape[0] // 2])[0].max() + 1
    room = after[lower : lower + after.shape[0] // 2 - before.shape[0] // 2]
    columns = np.nonzero((room < 100).all(-1))[1]
    left = np.nonzero(where(after, GREEN))[1]
    assert left.min() <= columns.min() < columns.max() < left.mean()


@pytest.mark.parametrize("width", [400, 1001, 1600])
def test_figure_is_as_wide_as_asked(draw, width):
    assert draw(query(ranking(True, False)), width=width).shape[1] == width


def test_only_the_top_answers_are_drawn(draw):
    many = draw(query(ranking(*[True] * 9)), top=2)
    np.testing.assert_array_equal(many, draw(query(ranking(True, True))))


def test_equal_comparisons_give_equal_files(tmp_path):
    for name in ("a.png", "b.png"):
        write_figure(tmp_path / name, query(ranking(True, ap=0.5)))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    # Nor do they depend on who draws them.
    assert b"atplotlib" not in (tmp_path / "a.png").read_bytes()


def test_dollar_in_a_name_starts_no_formula(draw):
    figure = draw(query(ranking(True, name=r"$\frac{1}{$ & $x$", ap=1.0)))
    assert figure.shape[2] == 3


def test_rankings_may_differ_in_length_and_be_empty(draw):
    figure = draw(query(ranking(True, True), ranking()))
    assert where(figure, GREEN).any()


def test_picture_of_one_pixel_is_drawn(draw):
    draw(query(ranking(True), shown=flat(BLUE, 1, 1)))


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ({"top": 0}, "top must be at least 1, got 0"),
        ({"width": 399}, "width must be at least 400, got 399"),
    ],
)
def test_bad_settings_are_refused(tmp_path, words, rule):
    with pytest.raises(ValueError, match=rule):
        write_figure(tmp_path / "figure.png", query(ranking(True)), **words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("comparison", [query(), query(ranking(), ranking())])
def test_comparison_without_answers_is_refused(tmp_path, comparison):
    with pytest.raises(ValueError, match="comparison must hold answers"):
        write_figure(tmp_path / "figure.png", comparison)


def test_average_precision_out_of_range_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ap must be in"):
        write_figure(tmp_path / "figure.png", query(ranking(True, ap=84.5)))


def test_drawing_does_not_import_the_global_state_of_matplotlib(tmp_path):
    code = (
        "import sys, numpy as np; import experiments.reporting._figure as f\n"
        "from diffjax import report as r\n"
        "grey = np.zeros((9, 9, 3), np.uint8)\n"
        "ranking = r.Ranking('a', None, (r.Answer(grey, 'b', 1.0),))\n"
        "f.write_figure(sys.argv[1], r.Comparison(grey, 'q', None, (ranking,)))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "figure.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
