"""Makes files as torch writes them, opcode by opcode and without torch."""

import io
import pickle
import zipfile
from collections.abc import Mapping

import numpy as np

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
NOTHING: Mapping[str, bytes] = {}
NEEDS_TORCH = "needs the parity extra: pip install torch==2.13.0"


def body(value) -> bytes:
    """The opcodes of a plain value, without the pickle's start and end."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(key, size, *, offset=0, shape=(), strides=(), storage="FloatStorage"):
    """The opcodes with which torch describes a view of a storage."""
    kind = body("storage") + f"ctorch\n{storage}\n".encode()
    persistent_id = b"(" + kind + body(key) + body("cpu") + body(size) + b"NtQ"
    arguments = [persistent_id, body(offset), body(shape), body(strides), body(False)]
    return call("torch._utils", "_rebuild_tensor_v2", *arguments, ORDERED_DICT)


def call(module, name, *arguments) -> bytes:
    """The opcodes of a call of something by name, of arguments as opcodes."""
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def whole_tensor(key, array):
    """The opcodes of a tensor that is a view of all of its storage."""
    strides = tuple(step // array.itemsize for step in array.strides)
    return tensor(key, array.size, shape=array.shape, strides=strides)


def dictionary(entries) -> bytes:
    """The opcodes of a dict of names to opcodes."""
    items = b"".join(body(name) + opcodes for name, opcodes in entries.items())
    return b"}(" + items + b"u"


def legacy_file(entries, storages, **header) -> bytes:
    """A file as torch wrote it before its zip container.

    `entries` maps names to opcodes, or is the opcodes of something else; `storages`
    maps keys to flat arrays; `header` replaces parts of the header.
    """
    header = {"magic": MAGIC_NUMBER, "version": 1001, "system": SYSTEM} | header
    return b"".join(
        [
            *(pickle.dumps(value, 2) for value in header.values()),
            pickle_of_opcodes(entries),
            pickle.dumps(sorted(storages), 2),
            *(
                storages[key].size.to_bytes(8, "little") + storages[key].tobytes()
                for key in sorted(storages)
            ),
        ]
    )


def zip_file(
    entries, storages, *, folder="archive/", packed=False, others=NOTHING
) -> bytes:
    """A file as torch writes it now; `others` are further entries, by name."""
    file = io.BytesIO()
    compression = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(f"{folder}data.pkl", pickle_of_opcodes(entries))
        for name, content in ({"byteorder": b"little"} | dict(others)).items():
            archive.writestr(f"{folder}{name}", content)
        for key, array in storages.items():
            archive.writestr(f"{folder}data/{key}", array.tobytes())
        archive.writestr(f"{folder}version", b"3\n")
    return file.getvalue()


def pickle_of_opcodes(entries) -> bytes:
    """The pickle of opcodes, or of a dict of them."""
    opcodes = entries if isinstance(entries, bytes) else dictionary(entries)
    return b"\x80\x02" + opcodes + b"."


def bfloat16(array) -> np.ndarray:
    """The upper halves of float32 numbers."""
    return (np.asarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)
