import os

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from diffjax.distributed import is_process_loss, process_group, row_mesh


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": "localhost:1"}, "got no count and no rank"),
        (
            {"count": 2, "rank": 0},
            "must be given together, or none of them, got no add",
        ),
    ],
)
def test_half_an_address_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message), process_group(**arguments):
        pass


def test_a_rank_that_is_not_a_number_is_refused(monkeypatch):
    monkeypatch.setenv("JAX_PROCESS_ID", "first")
    message = "JAX_PROCESS_ID must be a number, got 'first'"
    with pytest.raises(ValueError, match=message), process_group():
        pass


class ExitError(BaseException):
    """Stands for the end of the process by `os._exit`."""


@pytest.fixture
def group(monkeypatch):
    """Calls by which a group connects and shuts down, in their order; none is real."""
    calls = []

    def initialize(*arguments, **settings):
        calls.append(("initialize", *arguments, settings))

    def leave(code):
        calls.append(("exit", code))
        raise ExitError

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: calls.append("shutdown"))
    monkeypatch.setattr(
        multihost_utils, "sync_global_devices", lambda _: calls.append("sync")
    )
    monkeypatch.setattr(os, "_exit", leave)
    return calls


def test_a_group_connects_waits_for_all_and_shuts_down(group, monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "3")
    with process_group("localhost:1", rank=0, patience=7):
        assert group[1:] == ["sync"]
    settings = {
        "cluster_detection_method": "deactivate",
        "heartbeat_timeout_seconds": 7,
        "shutdown_timeout_seconds": 7,
    }
    connected = ("initialize", "localhost:1", 3, 0, settings)
    assert group == [connected, "sync", "shutdown"]


def test_without_other_processes_nothing_is_connected(group, monkeypatch):
    def initialize(*_, cluster_detection_method, **__):
        assert cluster_detection_method is None
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with process_group():
        pass
    with pytest.raises(KeyError, match="fault"), process_group():
        raise KeyError("fault")
    assert group == []


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (SystemExit(3), 3, ""),
        (SystemExit("error: no such file"), 1, "error: no such file\n"),
        (
            RuntimeError("UNAVAILABLE: Socket closed\nand more"),
            1,
            (
                "error: process 0 of 1 lost another one: see there for why, then start "
                "all of them again (UNAVAILABLE: Socket closed)\n"
            ),
        ),
    ],
)
def test_an_error_ends_the_process_at_once_with_its_message(
    group, capsys, error, code, text
):
    with pytest.raises(ExitError), process_group("localhost:1", 1, 0):
        raise error
    assert group[-1] == ("exit", code)
    assert capsys.readouterr().err == text


def test_a_fault_ends_the_process_at_once_with_its_traceback(group, capsys):
    with pytest.raises(ExitError), process_group("localhost:1", 1, 0):
        raise KeyError("a fault of its own")
    assert group[-1] == ("exit", 1)
    text = capsys.readouterr().err
    assert text.startswith("Traceback")
    assert text.endswith("KeyError: 'a fault of its own'\n")


def test_an_exit_without_error_shuts_down(group):
    with pytest.raises(SystemExit), process_group("localhost:1", 1, 0):
        raise SystemExit
    assert group[-1] == "shutdown"


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
def test_a_lost_process_is_distinguished_from_other_errors(error, loss):
    assert is_process_loss(error) == loss


def test_a_mesh_has_one_axis_and_the_devices_in_order():
    mesh = row_mesh()
    assert mesh.axis_names == ("rows",)
    positions = [(device.process_index, device.id) for device in mesh.devices]
    assert positions == sorted(positions)
    assert np.size(mesh.devices) == jax.device_count()
