import contextlib
import pathlib
import struct
import sys

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from matlab_files import StructArray, write_5, write_73

from diffjax.matlab import OpaqueValue, read_matlab

SCIPY_DATA = pathlib.Path(scipy.io.__file__).parent / "matlab" / "tests" / "data"


@pytest.fixture(params=[write_5, write_73], ids=["5", "7.3"])
def write_and_read(request, tmp_path):
    """Writes variables in one of the layouts and reads them."""

    def call(**variables):
        path = tmp_path / "variables.mat"
        request.param(path, variables)
        return read_matlab(path)

    return call


def matlab_file(name) -> pathlib.Path:
    """File that MATLAB wrote, from the tests of SciPy."""
    path = SCIPY_DATA / name
    if not path.exists():
        pytest.skip("needs SciPy with the data of its tests")
    return path


def test_numbers_keep_their_class_and_shape(write_and_read):
    dtypes = ("f8", "f4", "?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
    shapes = (1, 1), (1, 4), (3, 1), (2, 3), (3, 3, 1, 2), (0, 4)
    arrays = {
        f"x{len(shape)}_{number}_{'b1' if dtype == '?' else dtype}": (
            np.arange(np.prod(shape)).reshape(shape) % 3
        ).astype(dtype)
        for dtype in dtypes
        for number, shape in enumerate(shapes)
    }
    variables = write_and_read(**arrays)
    assert variables.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(variables[name], array, strict=True)


def test_texts_and_lists_and_structs_keep_their_nesting(write_and_read):
    value = {
        "text": "Größe \N{SNOWMAN} \N{GRINNING FACE}",
        "letter": "a",
        "nothing": "",
        "names": ["all_souls_1", "b", ""],
        "one": ["alone"],
        "none": [],
        "rows": [["a", "b", "c"], ["d", "e", "f"]],
        "inner": {"deep": {"deeper": ["x", ["y", ["z"]]]}},
    }
    assert write_and_read(value=value)["value"] == value


def test_a_column_of_cells_is_a_list_as_a_row_is(write_and_read):
    variables = write_and_read(column=[["a"], ["b"]], row=[["a", "b"]])
    assert variables == {"column": ["a", "b"], "row": ["a", "b"]}


def test_a_struct_array_is_a_list_of_dicts(write_and_read):
    records = [{"ok": f"{n}", "junk": [f"{n}", "x"]} for n in range(3)]
    variables = write_and_read(gnd=StructArray(records), none=StructArray([]))
    assert variables == {"gnd": records, "none": []}
    # MATLAB itself makes no difference between the two.
    assert write_and_read(gnd=StructArray(records[:1]))["gnd"] == records[0]


def test_a_ground_truth_like_that_of_oxford5k_is_read(write_and_read):
    bbx = np.array([[136.5, 34.1, 648.5, 955.7]])
    queries = [
        {"ok": np.arange(1.0, 5.0)[None], "junk": np.zeros((1, 0)), "bbx": bbx},
        {"ok": np.array([[7.0]]), "junk": np.array([[2.0, 3.0]]), "bbx": bbx + 1},
    ]
    variables = write_and_read(gnd=StructArray(queries), imlist=["a", "b"], qidx=bbx)
    assert variables["imlist"] == ["a", "b"]
    for got, query in zip(variables["gnd"], queries, strict=True):
        for name, array in query.items():
            np.testing.assert_array_equal(got[name], array, strict=True)


def test_compressed_arrays_are_read(write_and_read):
    array = np.zeros((500, 40), np.float32)
    array[::7] = 1
    np.testing.assert_array_equal(write_and_read(x=array)["x"], array, strict=True)


@pytest.mark.parametrize("version", ["6.1_SOL2", "6.5.1_GLNX86", "7.1_GLNX86"])
def test_files_of_old_matlabs_are_read(version):
    nested = read_matlab(matlab_file(f"teststructnest_{version}.mat"))["teststructnest"]
    np.testing.assert_array_equal(nested["one"], [[1.0]], strict=True)
    assert nested["two"] == {"three": "number 3"}
    array = read_matlab(matlab_file(f"teststructarr_{version}.mat"))["teststructarr"]
    assert array == [{"one": 1, "two": 2}, {"one": "number 1", "two": "number 2"}]
    rows = read_matlab(matlab_file(f"teststringarray_{version}.mat"))["teststringarray"]
    assert rows == ["one  ", "two  ", "three"]
    # 1, 2, ... as doubles that are stored as bytes; SOL2 is big-endian.
    matrix = read_matlab(matlab_file(f"testmatrix_{version}.mat"))["testmatrix"]
    assert matrix.dtype == np.float64
    assert matrix.dtype.isnative
    np.testing.assert_array_equal(matrix[0], [1, 2, 3, 4, 5])


@pytest.mark.parametrize("version", ["5.3_SOL2", "6.5.1_GLNX86", "7.4_GLNX86"])
def test_empty_cells_of_old_matlabs_are_empty_arrays(version):
    cells = read_matlab(matlab_file(f"testemptycell_{version}.mat"))["testemptycell"]
    assert [cell.shape for cell in cells] == [(1, 1), (1, 1), (0, 0), (0, 0), (1, 1)]


def test_a_file_of_matlab_7_3_is_read():
    variables = read_matlab(matlab_file("testhdf5_7.4_GLNX86.mat"))
    expected = np.linspace(0, 2 * np.pi, 9)[None]
    np.testing.assert_allclose(variables["testdouble"], expected, rtol=1e-14)


def test_a_file_of_matlab_7_3_without_h5py_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "variables.mat"
    write_73(path, {"x": np.zeros((1, 2))})
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.delitem(sys.modules, "diffjax.matlab._hdf5", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"h5py.*'diffjax\[matlab\]'"):
        read_matlab(path)


def test_sparse_matrices_are_of_scipy(tmp_path):
    matrix = read_matlab(matlab_file("testsparse_7.4_GLNX86.mat"))["testsparse"]
    assert isinstance(matrix, scipy.sparse.csc_array)
    dense = np.zeros((3, 5))
    dense[0], dense[:, 0] = [1, 2, 3, 4, 5], [1, 2, 3]
    np.testing.assert_array_equal(matrix.toarray(), dense)
    path = tmp_path / "sparse.mat"
    with h5py.File(path, "w") as file:
        for name, entries in {
            "full": matrix,
            "bare": scipy.sparse.csc_array((3, 5)),
        }.items():
            group = file.create_group(name)
            group.attrs["MATLAB_class"] = np.bytes_("double")
            group.attrs["MATLAB_sparse"] = np.uint64(3)
            group["jc"] = entries.indptr.astype("u8")
            if entries.nnz:
                group["ir"] = entries.indices.astype("u8")
                group["data"] = entries.data
                group["data"].attrs["MATLAB_class"] = np.bytes_("double")
    variables = read_matlab(path)
    np.testing.assert_array_equal(variables["full"].toarray(), dense)
    np.testing.assert_array_equal(variables["bare"].toarray(), np.zeros((3, 5)))


def test_objects_and_functions_are_opaque(tmp_path):
    functions = read_matlab(matlab_file("some_functions.mat"))
    assert functions["sqr"] == OpaqueValue("function_handle")
    np.testing.assert_array_equal(functions["b"], [[52.0]])
    path = tmp_path / "objects.mat"
    write_73(path, {"x": np.ones((1, 1)), "y": "text"})
    with h5py.File(path, "r+") as file:
        file["x"].attrs["MATLAB_class"] = np.bytes_("datetime")
    assert read_matlab(path) == {"x": OpaqueValue("datetime"), "y": "text"}


def test_complex_numbers_keep_both_parts():
    variables = read_matlab(matlab_file("testcomplex_7.4_GLNX86.mat"))["testcomplex"]
    turn = np.exp(1j * np.linspace(0, 2 * np.pi, 9))[None]
    np.testing.assert_allclose(variables, turn, rtol=1e-12, atol=1e-12)
    assert variables.dtype == np.complex128


def test_complex_numbers_of_7_3_are_read(tmp_path):
    array = np.array([[1 + 2j, 3 - 4j]])
    path = tmp_path / "complex.mat"
    with h5py.File(path, "w") as file:
        pairs = array.T.view([("real", "f8"), ("imag", "f8")])
        file["x"] = pairs
        file["x"].attrs["MATLAB_class"] = np.bytes_("double")
    np.testing.assert_array_equal(read_matlab(path)["x"], array, strict=True)


@pytest.mark.parametrize(
    "content",
    [b"", b"MATLAB 5.0 MAT-file", b"\x89PNG" * 200, b"%" * 124 + b"\x00\x03IM"],
    ids=["empty", "cut short", "a picture", "an unknown version"],
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.mat"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.mat: no MATLAB file of version"):
        read_matlab(path)


@pytest.mark.parametrize("write", [write_5, write_73])
def test_a_file_cut_short_is_refused_with_its_name(tmp_path, write):
    complete, short = tmp_path / "complete.mat", tmp_path / "short.mat"
    write(complete, {"x": np.ones((40, 50)), "y": ["a", {"b": "c"}]})
    content = complete.read_bytes()
    for length in range(700, len(content) - 1, len(content) // 15):
        short.write_bytes(content[:length])
        with pytest.raises(
            ValueError, match=r"short\.mat: no readable MATLAB file: .+"
        ):
            read_matlab(short)


def test_a_text_cut_short_anywhere_is_refused(tmp_path):
    path = tmp_path / "text.mat"
    write_5(path, {"x": "a text of some length"})
    content = path.read_bytes()
    for length in range(129, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut short|longer than what holds"):
            read_matlab(path)


@pytest.mark.parametrize("version", ["6.5.1_GLNX86", "7.4_GLNX86"])
def test_agrees_with_scipy_on_what_matlab_wrote(version):
    for name in ("3dmatrix", "bool_8", "double", "matrix", "minus", "multi", "sparse"):
        path = SCIPY_DATA / f"test{name}_{version}.mat"
        if not path.exists():
            continue
        expected = scipy.io.loadmat(path, mat_dtype=True, spmatrix=False)
        for key, value in read_matlab(path).items():
            if scipy.sparse.issparse(value):
                assert (value != expected[key]).nnz == 0
            else:
                np.testing.assert_array_equal(value, expected[key], strict=True)


@pytest.mark.parametrize("packed", [False, True])
def test_any_damaged_byte_gives_other_values_or_a_value_error(tmp_path, packed):
    # SciPy's reader crashes on some of them.
    path = tmp_path / "damaged.mat"
    values = {"x": np.ones((1, 2)), "y": [{"b": "c"}]}
    write_5(path, values, do_compression=packed)
    content = path.read_bytes()
    for position in range(128, len(content), 2):
        damaged = bytearray(content)
        damaged[position] = (0, 255, 14)[position % 3]
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            read_matlab(path)


@pytest.mark.parametrize(
    ("value", "position"),
    [(["a", "b"], 160), (StructArray([{"ok": "a"}, {"ok": "b"}]), 160)],
    ids=["cells", "structs"],
)
def test_cells_that_do_not_fit_their_element_are_refused(tmp_path, value, position):
    path = tmp_path / "large.mat"
    write_5(path, {"x": value})
    content = bytearray(path.read_bytes())
    assert content[position : position + 8] == bytes(
        [1, 0, 0, 0, 2, 0, 0, 0]
    )  # The shape.
    content[position : position + 8] = (2**31 - 1).to_bytes(4, "little") * 2
    path.write_bytes(content)
    with pytest.raises(ValueError, match="do not fit their element"):
        read_matlab(path)


def test_cells_that_are_tags_alone_fit_their_element(tmp_path):
    def element(kind, data=b""):
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    uint32, int32, int8, matrix, cell_class = 6, 5, 1, 14, 1
    cells = element(matrix) * 2
    parts = [
        element(uint32, struct.pack("<II", cell_class, 0)),
        element(int32, struct.pack("<ii", 1, 2)),
        element(int8, b"x"),
        cells,
    ]
    path = tmp_path / "tags.mat"
    head = b" " * 124 + b"\x00\x01IM"
    path.write_bytes(head + element(matrix, b"".join(parts)))
    assert [np.size(value) for value in read_matlab(path)["x"]] == [0, 0]


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_matlab(tmp_path / "none.mat")


def test_a_variable_larger_than_its_file_is_refused(tmp_path):
    path = tmp_path / "large.mat"
    with h5py.File(path, "w") as file:
        chunks = {"chunks": (1000, 1000), "compression": "gzip"}
        node = file.create_dataset("x", (10**7, 10**6), "f8", **chunks)
        node.attrs["MATLAB_class"] = np.bytes_("double")
    assert path.stat().st_size < 10_000
    with pytest.raises(
        ValueError, match="announces 80000000000000 bytes, 0 are stored"
    ):
        read_matlab(path)


@pytest.mark.parametrize("kind", ["external link", "external data", "virtual", "soft"])
def test_a_variable_in_another_file_is_refused(tmp_path, kind):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = np.ones((2, 2))
    path = tmp_path / "here.mat"
    with h5py.File(path, "w") as file:
        if kind == "external link":
            file["x"] = h5py.ExternalLink(str(other), "/x")
        elif kind == "soft":
            file["x"] = h5py.SoftLink("/y")
        elif kind == "external data":
            file.create_dataset("x", (2, 2), "f8", external=[(str(other), 0, 32)])
        else:
            layout = h5py.VirtualLayout((2, 2), "f8")
            layout[:] = h5py.VirtualSource(str(other), "x", (2, 2))
            file.create_virtual_dataset("x", layout)
        if kind in {"external data", "virtual"}:
            file["x"].attrs["MATLAB_class"] = np.bytes_("double")
    with pytest.raises(ValueError, match=r"lies in another file|somewhere else"):
        read_matlab(path)


def test_cells_that_contain_themselves_are_refused(tmp_path):
    path = tmp_path / "loop.mat"
    with h5py.File(path, "w") as file:
        node = file.create_dataset("x", (1, 1), h5py.ref_dtype)
        node.attrs["MATLAB_class"] = np.bytes_("cell")
        node[0, 0] = node.ref
    with pytest.raises(ValueError, match="recursion"):
        read_matlab(path)
