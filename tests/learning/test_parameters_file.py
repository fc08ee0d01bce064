import errno
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from diffjax.learning import (
    PARAMETER_NAMES,
    ParametersFileError,
    load_parameters,
    parameters,
    save_parameters,
)

KEY = "diffjax parameters"


@pytest.fixture
def everything():
    """Parameters with all optional parts."""
    return parameters(
        PARAMETER_NAMES, scales=3, dim=4, rank=2, graphs=2, alpha=0.97, gamma=2.5
    )


@pytest.fixture
def stored(everything, tmp_path):
    """A file of them."""
    path = tmp_path / "learned.safetensors"
    save_parameters(path, everything, fingerprint="f" * 64, notes={"seed": 3})
    return path


def rewrite(path, *, header=None, arrays=None):
    """Writes a file of parameters again with something changed."""
    with safetensors.safe_open(path, "np") as file:
        text = json.loads(file.metadata()[KEY])
        old = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata = {KEY: json.dumps(text | (header or {}))}
    path.write_bytes(safetensors.numpy.save(old | (arrays or {}), metadata=metadata))


def test_saved_parameters_are_loaded_bit_by_bit(everything, stored):
    got = load_parameters(stored, fingerprint="f" * 64)
    for one, other in zip(got.parameters, everything, strict=True):
        assert isinstance(one, jax.Array)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert got.notes == {"seed": 3}
    assert got.fingerprint == "f" * 64
    assert got.diffjax


def test_parts_that_are_not_there_stay_away(tmp_path):
    save_parameters(tmp_path / "few", parameters(), fingerprint="f")
    got = load_parameters(tmp_path / "few")
    assert got.parameters[3:] == (None,) * 7
    assert got.notes == {}


def test_double_precision_is_kept_and_never_halved_silently(tmp_path):
    path = tmp_path / "double"
    with jax.enable_x64(True):
        save_parameters(path, parameters(alpha=1 - 1e-12), fingerprint="f")
        assert float(load_parameters(path).parameters.alpha) == 1 - 1e-12
    with pytest.raises(ValueError, match="double must be float32 here, got float64"):
        load_parameters(path)


def test_a_projection_that_is_a_view_is_stored_as_it_reads(tmp_path):
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    given = parameters(["projection"], dim=2)._replace(projection=jnp.asarray(turned))
    save_parameters(tmp_path / "turned", given, fingerprint="f")
    got = load_parameters(tmp_path / "turned").parameters.projection
    np.testing.assert_array_equal(np.asarray(got), turned)


def test_the_same_parameters_give_the_same_bytes(everything, stored):
    before = stored.read_bytes()
    save_parameters(stored, everything, fingerprint="f" * 64, notes={"seed": 3})
    assert stored.read_bytes() == before


def test_parameters_of_another_index_are_refused(stored):
    with pytest.raises(ParametersFileError) as error:
        load_parameters(stored, fingerprint="e" * 64)
    assert str(error.value) == (
        f"{stored} was learned on another index (fingerprint {'f' * 16}, this one has "
        f"{'e' * 16}): learn them again with `diffjax learn` on this index."
    )


def test_another_version_is_refused_before_anything_else_is_looked_at(stored):
    rewrite(stored, header={"version": 2, "sha256": None, "fingerprint": 7})
    with pytest.raises(
        ParametersFileError, match=r"is version 2 of .*reads version 1 of"
    ):
        load_parameters(stored, fingerprint="e")


@pytest.mark.parametrize(
    "change",
    [
        {"header": {"fingerprint": "e" * 64}},
        {"header": {"notes": {"seed": 4}}},
        {"header": {"sha256": "0"}},
        {"arrays": {"alpha": np.float32(0.5)}},
        {"arrays": {"gamma": np.full(1, 2.5, np.float32)}},
        {"arrays": {"delta": np.float32(1)}},
    ],
    ids=lambda change: "-".join(map(str, *change.values())),
)
def test_edited_files_are_refused(stored, change):
    if "arrays" in change:
        change = {"arrays": {k: np.asarray(v) for k, v in change["arrays"].items()}}
    rewrite(stored, **change)
    with pytest.raises(ParametersFileError, match=r"is damaged or edited \(its hash"):
        load_parameters(stored)


def test_every_byte_that_is_changed_and_every_cut_is_noticed(stored):
    whole = stored.read_bytes()
    for at in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[at] ^= 0x11
        stored.write_bytes(broken)
        with pytest.raises(ParametersFileError) as error:
            load_parameters(stored)
        assert "\n" not in str(error.value)
        stored.write_bytes(whole[:at])
        with pytest.raises(ParametersFileError, match="no file of parameters"):
            load_parameters(stored)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "other"
    path.write_text("alpha: 0.99\n")
    with pytest.raises(
        ParametersFileError, match="is no file of parameters, or damaged"
    ):
        load_parameters(path)
    path.write_bytes(safetensors.numpy.save({"alpha": np.zeros(1)}))
    with pytest.raises(ParametersFileError, match="holds something else"):
        load_parameters(path)
    for text in ("{", "[]", "{}"):
        path.write_bytes(
            safetensors.numpy.save({"alpha": np.zeros(1)}, metadata={KEY: text})
        )
        with pytest.raises(ParametersFileError, match="is damaged"):
            load_parameters(path)


def test_a_file_that_is_missing_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_parameters(tmp_path / "nothing")


def test_a_disk_that_is_full_leaves_the_old_file(stored, everything, monkeypatch):
    before = stored.read_bytes()

    def full(self, data):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        save_parameters(stored, everything, fingerprint="g")
    monkeypatch.undo()
    assert stored.read_bytes() == before
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]


def test_error_names_parameters_that_can_not_be_saved(tmp_path):
    path = tmp_path / "file"
    good = parameters()
    with pytest.raises(ValueError, match="fingerprint must name the index"):
        save_parameters(path, good, fingerprint="")
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 1\), got 1"):
        save_parameters(path, good._replace(alpha=jnp.ones(())), fingerprint="f")
    for notes in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="notes must be what JSON can hold, got"):
            save_parameters(path, good, fingerprint="f", notes=notes)
    assert not path.exists()
