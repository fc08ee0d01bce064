import numpy as np
import pytest

from diffjax.data import read_regions


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_boxes_are_gathered_by_picture_in_order(tmp_path):
    text = (
        "picture,x0,y0,x1,y1\na/b.jpg,0,0,10,20\n\nc.jpg, 1,2,3.5,4\na/b.jpg,5,6,7,8\n"
    )
    found = read_regions(write(tmp_path / "r.csv", text))
    assert list(found) == ["a/b.jpg", "c.jpg"]
    np.testing.assert_array_equal(found["a/b.jpg"], [[0, 0, 10, 20], [5, 6, 7, 8]])
    np.testing.assert_array_equal(found["c.jpg"], [[1, 2, 3.5, 4]])


def test_names_with_commas_and_a_byte_order_mark_are_read(tmp_path):
    text = '\ufeff"a, b.jpg",0,0,10,20\n'
    assert list(read_regions(write(tmp_path / "r.csv", text))) == ["a, b.jpg"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("a.jpg,1,2,3", r"line 2: must be picture,x0,y0,x1,y1, got 'a.jpg,1,2,3'"),
        ("a.jpg,1,2,3,x", r"line 2: must be picture,x0,y0,x1,y1"),
        ("a.jpg,1,2,1,4", r"line 2: must have 0 <= x0 < x1"),
        ("a.jpg,-1,2,1,4", r"line 2: must have 0 <= x0 < x1"),
        ("a.jpg,0,2,1,nan", r"line 2: must have 0 <= x0 < x1"),
        ("a.jpg,0,2,inf,4", r"line 2: must have 0 <= x0 < x1"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, complaint):
    path = write(tmp_path / "r.csv", f"ok.jpg,0,0,1,1\n{line}\n")
    with pytest.raises(ValueError, match=complaint):
        read_regions(path)
