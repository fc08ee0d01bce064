import os
import pickle
import re
import resource
import sys

import numpy as np
import pytest
from torch_files import (
    ORDERED_DICT,
    body,
    call,
    legacy_file,
    tensor,
    whole_tensor,
    zip_file,
)

from diffjax.weights import _torch_unpickler
from diffjax.weights._torch_format import read_torch_file

NUMBERS = np.arange(4, dtype=np.float32)
# Opcodes of an array as NumPy pickles it, up to its contents.
RECONSTRUCT = call(
    "numpy.core.multiarray", "_reconstruct", b"cnumpy\nndarray\n", body((0,)), body("b")
)


def in_either_container(test):
    """Runs a test in both containers, whose pickles are read from different streams."""
    mark = pytest.mark.parametrize("read", ["legacy", "zip"], indirect=True)
    return mark(test)


@pytest.fixture(params=["legacy", pytest.param("zip", marks=pytest.mark.full)])
def read(request, tmp_path):
    """Reads opcodes as an entry beside a tensor, in a file of one container."""
    write = {"legacy": legacy_file, "zip": zip_file}[request.param]

    def read_opcodes(opcodes):
        path = tmp_path / "weights.pth"
        entries = {"w": whole_tensor("a", NUMBERS), "x": opcodes}
        path.write_bytes(write(entries, {"a": NUMBERS}))
        return read_torch_file(path)

    return read_opcodes


def dtype(name, order="<") -> bytes:
    """The opcodes of a NumPy dtype."""
    state = body((3, order, None, None, None, -1, -1, 0))
    return call("numpy", "dtype", body(name), body(False), body(True)) + state + b"b"


def array(shape, name, content) -> bytes:
    """The opcodes of a NumPy array with the contents given as opcodes."""
    state = b"(" + body(1) + body(shape) + dtype(name) + body(False) + content + b"t"
    return RECONSTRUCT + state + b"b"


class Reduced:
    """Calls a function of its choice when an ordinary unpickler meets it."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("position", ["magic", "version", "system", "entry", "zip"])
def test_a_hostile_file_is_refused_and_nothing_runs(tmp_path, position):
    trace = tmp_path / "trace"
    hostile = Reduced(os.system, f"echo harm > {trace}")
    # Negative control: an ordinary unpickler does run it.
    pickle.loads(pickle.dumps(hostile))  # noqa: S301
    assert trace.exists()
    trace.unlink()
    path = tmp_path / "weights.pth"
    path.write_bytes(
        {
            "entry": lambda: legacy_file({"x": body(hostile)}, {}),
            "zip": lambda: zip_file({"x": body(hostile)}, {}),
        }.get(position, lambda: legacy_file({}, {}, **{position: hostile}))()
    )
    name = re.escape(f"{os.system.__module__}.system")
    with pytest.raises(ValueError, match=rf"asks for {name}"):
        read_torch_file(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("posix", "system"),
        ("nt", "system"),
        ("builtins", "eval"),
        ("__builtin__", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("builtins", "set.add"),
        ("functools", "partial"),
        ("operator", "attrgetter"),
        ("subprocess", "Popen"),
        ("pickle", "loads"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch.hub", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "fromfile"),
        ("numpy", "memmap"),
        ("_codecs", "decode"),
        ("diffjax.weights._torch_unpickler", "pickle.loads"),
        ("copyreg", "_reconstructor"),
        ("argparse", "Namespace"),
    ],
)
def test_any_other_name_is_refused_with_its_name(read, tmp_path, module, name):
    trace = tmp_path / "trace"
    harm = f"open({str(trace)!r}, 'w')"
    with pytest.raises(ValueError, match=f"asks for {re.escape(f'{module}.{name}')}, "):
        read(call(module, name, body(harm)))
    # The same by the opcodes of protocol 4, which takes names from the stack.
    with pytest.raises(ValueError, match=f"asks for {re.escape(f'{module}.{name}')}, "):
        read(body(module) + body(name) + b"\x93(" + body(harm) + b"tR")
    assert not trace.exists()


def test_no_name_resolves_to_an_object_of_torch_numpy_or_python():
    unpickler = _torch_unpickler.TorchUnpickler(
        _torch_unpickler.io.BytesIO(b"N."),
        budget=_torch_unpickler.MemoryBudget(100),
        storages={},
    )
    for name in [*unpickler._stand_ins, "torch.FloatStorage"]:
        got = unpickler.find_class(*name.rsplit(".", 1))
        assert type(got).__module__ == _torch_unpickler.__name__
        assert not isinstance(got, type)


NAME = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    "opcodes",
    [
        NAME + body({"__code__": 1}) + b"b",
        NAME + b"N" + body({"__call__": 1}) + b"\x86b",
        NAME + body({"_function": 1}) + b"b",
        b"ctorch\nFloatStorage\n" + body({"dtype": 1}) + b"b",
        b"cnumpy\nndarray\n" + body({"x": 1}) + b"b",
        NAME + body(1) + body(2) + b"s",
        NAME + body(1) + b"a",
        NAME + b")\x81",
        NAME + b")}\x92",
        call("numpy", "ndarray", body((10**12,))),
        call("builtins", "bytes", body(10**12)),
        call("builtins", "set", body("text")),
        call("torch", "FloatStorage", body(10**12)),
        b"(" + NAME + b"o",
        NAME,
        ORDERED_DICT + body({"items": 1}) + b"b" + body("k") + NAME + b"s",
        b"\x82\x01",
        b"\x84\xff\xff\xff\x7f",
        b"P1\n",
        body("storage") + b"Q",
        body(("storage", "FloatStorage", "a", "cpu", 4)) + b"Q",
    ],
    ids=lambda opcodes: repr(opcodes[-20:]),
)
def test_misuse_of_the_stand_ins_is_refused(read, opcodes):
    with pytest.raises(ValueError, match="no readable torch state dict"):
        read(opcodes)
    # And leave nothing behind for the next file.
    assert read(tensor("a", 4, shape=(4,), strides=(1,))).tensors.keys() == {"w", "x"}


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (NAME + body({"__code__": 1}) + b"b", "sets the attributes of a function"),
        (NAME + b"N" + body({"_function": 1}) + b"\x86b", "sets the attributes"),
        (b"Nr" + (2**24).to_bytes(4, "little"), "it numbers an object 16777216"),
        (b"Np16777216\n", "it numbers an object 16777216"),
        (b"\x82\x01", "by its number in a registry"),
        (call("builtins", "set", body("text")), "it makes a set of no list"),
        (call("numpy", "ndarray", body((1,))), "in a way that NumPy does not"),
        (body(("storage", "FloatStorage", "a", "cpu", 4)) + b"Q", "without a type"),
    ],
)
def test_each_misuse_has_its_message(read, opcodes, message):
    with pytest.raises(ValueError, match=message):
        read(opcodes)


def test_the_attributes_of_an_ordered_dict_are_ignored(read):
    state = body({"_metadata": {"": {"version": 1}}})
    got = read(ORDERED_DICT + body("k") + body(3) + b"s" + state + b"b")
    assert got.extras["x"] == {"k": 3}
    assert type(got.extras["x"]) is dict


def test_ordered_dicts_of_python_2_are_read(read):
    # As a list of pairs, with texts of bytes.
    pairs = b"](](U\x01aK\x01e](U\x01bK\x02ee"
    got = read(b"ccollections\nOrderedDict\n(" + pairs + b"tR").extras["x"]
    assert list(got.items()) == [("a", 1), ("b", 2)]


def test_arrays_of_python_2_are_read(read):
    content = np.array([1.5, -2.0]).tobytes()
    assert content[7] > 127 or content[15] > 127  # No text in UTF-8.
    opcodes = array((2,), "f8", b"U" + bytes([len(content)]) + content)
    np.testing.assert_array_equal(read(opcodes).tensors["x"], [1.5, -2.0])


@pytest.mark.parametrize(
    ("shape", "name", "content", "message"),
    [
        ((1,), "O8", body([1]), "NumPy's dtype 'O8', which is not plain"),
        ((1,), "V8", body("12345678"), "not plain"),
        ((1,), "f8,O", body("12345678"), "not plain"),
        ((1,), "(99999999,)f8", body("12345678"), "not plain"),
        ((1,), "f8", body([b"12345678"]), "array of objects"),
        ((2,), "f8", body("12345678"), "does not fit its 8 bytes"),
        ((10**12,), "f8", body("12345678"), "does not fit its 8 bytes"),
        ((0, 10**12), "f8", body("12345678"), "does not fit its 8 bytes"),
        ((-1,), "f8", body("12345678"), "does not fit its 8 bytes"),
        (1, "f8", body("12345678"), "does not fit its 8 bytes"),
    ],
)
def test_numpy_arrays_that_are_not_plain_numbers_are_refused(
    read, shape, name, content, message
):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(array(shape, name, content))


def test_a_numpy_array_without_contents_is_refused(read):
    with pytest.raises(ValueError, match="part of no array"):
        read(RECONSTRUCT)


def test_a_list_that_contains_itself_is_refused(read):
    with pytest.raises(ValueError, match="a list that contains itself"):
        read(b"]q\x01h\x01a")


def test_a_list_that_is_held_twice_forty_times_is_converted_once(read):
    # Without sharing these would be 2^40 lists.
    opcodes = b"]q\x01" + b"".join(
        b"0](" + b"h%c" % n * 2 + b"eq%c" % (n + 1) for n in range(1, 41)
    )
    assert len(read(opcodes).extras["x"]) == 2


def test_deep_nesting_is_refused(read):
    with pytest.raises(ValueError, match="recursion"):
        read(b"](" * 100_000 + b"e" * 100_000)


@pytest.mark.parametrize(
    "opcodes",
    [
        b"\x8e" + (10**11).to_bytes(8, "little"),  # So many bytes follow.
        b"\x8d" + (10**11).to_bytes(8, "little"),  # So many of a text.
        b"\x96" + (10**11).to_bytes(8, "little"),  # So many of a bytearray.
        b"\x8b" + (2**31 - 1).to_bytes(4, "little"),  # So many of a number.
        b"Nr" + (2**32 - 1).to_bytes(4, "little"),  # The object of this number.
        b"Np4294967295\n",
        b"\x95" + (10**11).to_bytes(8, "little"),  # A frame so long.
        array((10**11,), "f8", body("")),
        call("_codecs", "encode", b"X\x00\xe8\x76\x48", body("latin1")),
        # The same text encoded again and again; the same list made a set.
        b"X\x10'\x00\x00" + b"a" * 10_000 + b"q\x010U\x06latin1q\x020"
        b"c_codecs\nencode\nq\x030" + b"h\x03h\x01h\x02\x86R0" * 10_000 + b"N",
        b"](" + b"K\x01" * 1000 + b"eq\x010c__builtin__\nset\nq\x02"
        b"0]" + b"h\x02h\x01\x85Ra" * 10_000,
    ],
    ids=lambda opcodes: repr(opcodes[:12]),
)
@in_either_container
@pytest.mark.skipif(sys.platform != "linux", reason="sees the memory as Linux counts")
def test_a_small_file_that_announces_much_gets_no_memory(read, opcodes):
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = peak()
    with pytest.raises(ValueError, match="no readable torch state dict"):
        read(opcodes)
    assert peak() - before < 50_000  # KiB


def test_the_modules_that_could_do_harm_are_not_even_imported(read):
    name = "antigravity"  # Opens a browser when it is imported.
    assert name not in sys.modules
    with pytest.raises(ValueError, match=r"asks for antigravity\.geohash"):
        read(call(name, "geohash"))
    assert name not in sys.modules
