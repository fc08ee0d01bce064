import jax
import numpy as np
import pytest

from diffjax.distributed import is_process_loss, process_group, row_mesh


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"address": "localhost:1"}, "got no count and no rank"),
        (
            {"count": 2, "rank": 0},
            "must be given together, or none of them, got no add",
        ),
    ],
)
def test_half_an_address_is_refused(given, message):
    with pytest.raises(ValueError, match=message), process_group(**given):
        pass


def test_a_rank_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_PROCESS_ID", "first")
    message = "JAX_PROCESS_ID must be a number, got 'first'"
    with pytest.raises(ValueError, match=message), process_group():
        pass


@pytest.mark.parametrize(
    ("error", "loss"),
    [
        (
            ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"),
            True,
        ),
        (jax.errors.JaxRuntimeError("INTERNAL: NCCL operation failed"), True),
        (RuntimeError("UNAVAILABLE: Socket closed"), True),
        (ValueError("k must be in 1..3 (n), got 4."), False),
        (KeyError("UNKNOWN: a key of that name"), False),
        (OSError("no such file"), False),
    ],
)
def test_a_loss_is_told_from_a_fault_of_ones_own(error, loss):
    assert is_process_loss(error) == loss


def test_a_mesh_has_one_axis_and_the_devices_in_order():
    mesh = row_mesh()
    assert mesh.axis_names == ("rows",)
    places = [(one.process_index, one.id) for one in mesh.devices]
    assert places == sorted(places)
    assert np.size(mesh.devices) == jax.device_count()
