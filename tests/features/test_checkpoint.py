import gzip
import io
import pickle
import tarfile

import numpy as np
import pytest
import safetensors.numpy
from matlab_files import write_5, write_73
from torch_files import legacy_file, whole, zip_file

from diffjax.features._checkpoint import read_checkpoint

KERNEL = np.arange(24, dtype=np.float32).reshape(4, 3, 2, 1)
WHOLE = {"conv.weight": whole("a", KERNEL)}
# The same in MATLAB's order of axes: rows, columns, inputs, outputs.
LAYER = {"name": "conv", "type": "conv", "weights": [KERNEL.transpose(2, 3, 1, 0)]}


def write_safetensors(path):
    safetensors.numpy.save_file({"conv.weight": KERNEL}, path)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(legacy_file(WHOLE, {"a": KERNEL.reshape(-1)})),
        lambda path: path.write_bytes(zip_file(WHOLE, {"a": KERNEL.reshape(-1)})),
        write_safetensors,
        lambda path: write_5(path, {"layers": [LAYER]}),
        lambda path: write_73(path, {"layers": [LAYER]}),
    ],
    ids=["torch, legacy", "torch, zip", "safetensors", "MATLAB 5", "MATLAB 7.3"],
)
def test_each_kind_is_told_by_its_bytes_whatever_its_name(tmp_path, write):
    path = tmp_path / "weights.bin"
    write(path)
    found = read_checkpoint(path)
    assert list(found.tensors) == ["conv.weight"]
    np.testing.assert_array_equal(found.tensors["conv.weight"], KERNEL, strict=True)
    assert found.source == str(path)
    assert read_checkpoint(str(path)).tensors.keys() == found.tensors.keys()


def packed() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return file.getvalue()


def one_array() -> bytes:
    file = io.BytesIO()
    np.save(file, KERNEL)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html>\n<html><title>404 Not Found", "a web page"),
        (b"\n\n <html lang=en>", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "a web page"),
        (b'{"error": "Repository not found"}', "a text in JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (gzip.compress(b"weights"), "a compressed file"),
        (packed(), "a tar archive"),
        (one_array(), "a single NumPy array"),
        (pickle.dumps({"w": [1.0]}), "a pickle that torch did not write"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a picture"),
        (b"some words", "of a kind not known here, which starts with b'some words'"),
        (b"\x00" * 5000, "of a kind not known here"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_holds_no_weights_is_named(tmp_path, content, kind):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    rule = r"^[^\n]*weights\.pth: no file of weights; it seems to be [^\n]+\.$"
    with pytest.raises(ValueError, match=rule) as error:
        read_checkpoint(path)
    assert kind in str(error.value)


def test_a_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="a folder, not a file of weights"):
        read_checkpoint(tmp_path)


def test_a_zip_file_of_other_things_is_named(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, x=KERNEL)
    with pytest.raises(ValueError, match=r"a zip file with 0 entries data\.pkl"):
        read_checkpoint(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.pth")
