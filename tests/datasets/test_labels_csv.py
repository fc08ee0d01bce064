import pytest

from diffjax.datasets._labels_csv import read_labels

TEXT = """picture,x0,y0,x1,y1,label
b.jpg,1,2,30,40.5,cup
a/c.jpg,,,,,cup

b.jpg,5,6,70,80,jug
a/a.jpg,,,,,cup
b.jpg,50,60,70,80,cup
"""


@pytest.fixture
def write(tmp_path):
    """Writes a table."""

    def write(text):
        path = tmp_path / "mine.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_positives_of_a_row_are_the_other_pictures_of_its_label(write):
    got = read_labels(write(TEXT))
    assert got.name == "mine"
    assert got.database == ("a/a.jpg", "a/c.jpg", "b.jpg")
    assert got.queries == ("b.jpg", "a/c.jpg", "b.jpg", "a/a.jpg", "b.jpg")
    assert got.boxes == (
        (1, 2, 30, 40.5),
        None,
        (5, 6, 70, 80),
        None,
        (50, 60, 70, 80),
    )
    # The jug is in one picture only: the query is kept without positives.
    assert [p.tolist() for p in got.positives] == [[0, 1], [0, 2], [], [1, 2], [0, 1]]
    assert [j.tolist() for j in got.junk] == [[2], [1], [2], [0], [2]]
    assert got.objects == ("cup", "cup", "jug", "cup", "cup")


def test_columns_are_in_any_order_and_names_may_contain_commas(write):
    text = '\ufefflabel, Y1,X1,y0,x0,picture\r\n"big, red",40,30,2,1,"a, b.jpg"\r\n'
    got = read_labels(write(text), name="other")
    assert got.name == "other"
    assert got.database == ("a, b.jpg",)
    assert got.boxes == ((1, 2, 30, 40),)
    assert got.objects == ("big, red",)


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("picture,x0,y0,x1,y1,label,size", r"line 1: .* unknown column 'size'"),
        ("picture,x0,y0,x1,y1,x0,label", r"line 1: must be .* column 'x0' twice"),
        ("picture,x0,y0,x1,label", "got no column 'y1' in 'picture,x0,y0,x1,label'"),
        ("b.jpg,1,2,30,40,cup", "line 1: must be picture,x0,y0,x1,y1,label, got unkn"),
        ("", "got no column 'picture'"),
    ],
)
def test_a_bad_header_is_refused(write, header, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_labels(write(f"{header}\nb.jpg,1,2,30,40,cup\n"))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("c.jpg,1,2,30,cup", "line 3: must have 6 cells, got 'c.jpg,1,2,30,cup'"),
        ("c.jpg,1,2,30,40,cup,", "line 3: must have 6 cells"),
        (",1,2,30,40,cup", "line 3: must have a picture, got ',1,2,30,40,cup'"),
        ("c.jpg,1,2,30,40, ", "line 3: must have a label"),
        ("c.jpg,1,,30,40,cup", "line 3: a box must be four numbers x0,y0,x1,y1"),
        ("c.jpg,1,2,30,x,cup", "line 3: a box must be four numbers"),
        ("c.jpg,1,2,1,40,cup", r"line 3: a box must have 0 <= x0 < x1"),
        ("c.jpg,0.1,0.1,0.9,0.9,cup", r"line 3: a box must have 8 px .* fractions"),
        ("b.jpg,1.0,2,30,40,cup", r"line 3: must not repeat line 2, got 'b.jpg,1.0"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(write, row, complaint):
    text = f"picture,x0,y0,x1,y1,label\nb.jpg,1,2,30,40,cup\n{row}\n"
    with pytest.raises(ValueError, match=complaint):
        read_labels(write(text))


@pytest.mark.parametrize("text", [b"", b"picture,x0,y0,x1,y1,label\n"])
def test_a_table_without_a_row_is_refused(write, text):
    with pytest.raises(ValueError, match=r"mine\.csv"):
        read_labels(write(text))


@pytest.mark.parametrize("text", [b'"picture\n', b"picture\xe9\n"])
def test_other_files_than_csv_in_utf_8_are_refused(write, text):
    with pytest.raises(ValueError, match=r"mine\.csv must be a CSV file in UTF-8"):
        read_labels(write(text))
