import numpy as np
import pytest

from diffjax.images import read_boxes_csv


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_boxes_are_gathered_by_picture_in_order(tmp_path):
    text = "Picture,X0,y0,x1,y1\na/b.jpg,0,0,10,20\n\nc.jpg, 1,2,13.5,14\n"
    text += "a/b.jpg,5,6,17,18\n"
    got = read_boxes_csv(write(tmp_path / "r.csv", text))
    assert list(got) == ["a/b.jpg", "c.jpg"]
    np.testing.assert_array_equal(got["a/b.jpg"], [[0, 0, 10, 20], [5, 6, 17, 18]])
    np.testing.assert_array_equal(got["c.jpg"], [[1, 2, 13.5, 14]])


def test_names_with_commas_and_a_byte_order_mark_are_read(tmp_path):
    text = '\ufeff"a, b.jpg",0,0,10,20\n'
    assert list(read_boxes_csv(write(tmp_path / "r.csv", text))) == ["a, b.jpg"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("a.jpg,1,2,3", r"line 2: must be picture,x0,y0,x1,y1, got 'a.jpg,1,2,3'"),
        ("a.jpg,1,2,3,x", r"line 2: must be picture,x0,y0,x1,y1"),
        ("a.jpg,1,2,1,4", r"line 2: must have 0 <= x0 < x1"),
        ("a.jpg,-1,2,1,4", r"line 2: must have 0 <= x0 < x1"),
        ("a.jpg,0,2,1,nan", r"line 2: must have 0 <= x0 < x1"),
        ("a.jpg,0.1,0.1,0.9,0.9", r"line 2: must have 8 px .* not fractions"),
        ("a.jpg,0,2,inf,4", r"line 2: must have 0 <= x0 < x1"),
    ],
)
def test_the_error_names_the_bad_line(tmp_path, line, complaint):
    path = write(tmp_path / "r.csv", f"ok.jpg,0,0,10,10\n{line}\n")
    with pytest.raises(ValueError, match=complaint):
        read_boxes_csv(path)


@pytest.mark.parametrize(
    "data", ["b\xe9.jpg,0,0,9,9\n".encode("latin-1"), b'"a.jpg,0,0,9,9\n']
)
def test_a_file_other_than_csv_in_utf_8_is_refused_with_its_path(tmp_path, data):
    path = tmp_path / "r.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"r\.csv must be a CSV file in UTF-8, got "):
        read_boxes_csv(path)
