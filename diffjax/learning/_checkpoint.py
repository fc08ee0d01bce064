"""Checkpoint of a fit: its state, written to a file and read back."""

import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Array, Shaped

from diffjax._io import write_atomically

from ._gradient_steps import LearnedArrays

_FORMAT = "diffjax fit 1"


class CheckpointError(ValueError):
    """Error of a checkpoint that a fit can't continue from, with the remedy."""


class FitProgress(NamedTuple):
    """Counters of a fit: restart, step, best evaluation.

    Attributes:
        restart: Number of the current restart.
        step: Number of steps done in it.
        evaluations_without_gain: Consecutive evaluations without gain.
        restart_best: Best held-out value of this restart; -1 before the first.
        best: Best held-out value of all restarts; -1 before the first.
        best_step: Step of the best value.
        best_restart: Restart of the best value.
        num_solves: Number of solved right-hand sides, for gradients and evaluations.
        edge_capacities: Edge slots since the last search of neighbours; empty before.
        ended: Stop reason of each earlier restart.
    """

    restart: int = 0
    step: int = 0
    evaluations_without_gain: int = 0
    restart_best: float = -1.0
    best: float = -1.0
    best_step: int = 0
    best_restart: int = 0
    num_solves: int = 0
    edge_capacities: tuple[int, ...] = ()
    ended: tuple[str, ...] = ()


class FitState(NamedTuple):
    """State of a fit, from which it continues.

    Attributes:
        progress: Counters.
        learned: Unconstrained values of the learned parameters.
        optimizer: State of the optimiser.
        learned_at_refresh: Values at the last search of neighbours.
        best: Values at the best evaluation.
        history: Arrays by name; see `FitResult`.
    """

    progress: FitProgress
    learned: LearnedArrays
    optimizer: Any
    learned_at_refresh: LearnedArrays
    best: LearnedArrays
    history: dict[str, Shaped[np.ndarray, "..."]]


def save_state(
    path: str | os.PathLike[str], state: FitState, *, fingerprint: str
) -> None:
    """Writes the state of a fit to a file, atomically.

    Args:
        path: The file.
        state: The state.
        fingerprint: Hash of parameters, queries, collection and settings.

    Raises:
        OSError: If it can't be written.
    """
    arrays = {f"history.{name}": array for name, array in state.history.items()}
    for number, leaf in enumerate(jax.tree.leaves(_state_arrays(state))):
        arrays[f"moving.{number}"] = np.asarray(leaf)
    header = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "progress": json.dumps(state.progress._asdict()),
    }
    dense = {name: np.array(array, order="C") for name, array in arrays.items()}
    write_atomically(path, safetensors.numpy.save(dense, header))


def load_state(
    path: str | os.PathLike[str], template: FitState, *, fingerprint: str
) -> FitState:
    """Reads the state of a fit from a file, bit by bit as it was written.

    Args:
        path: The file.
        template: A state of the same fit, for its shapes.
        fingerprint: Hash of parameters, queries, collection and settings.

    Returns:
        The state.

    Raises:
        CheckpointError: If the file is no checkpoint, or that of another fit.
        OSError: If it can't be read.
    """
    path = pathlib.Path(path)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping.
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{path} is no checkpoint, or a damaged one: take it away to start anew."
        ) from error
    if header.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} is no checkpoint of this version: name another file."
        )
    if header["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{path} was made with other settings, labels or vectors: take it away to "
            "start anew, or name another file."
        )
    leaves, tree = jax.tree.flatten(_state_arrays(template))
    moving = [jnp.asarray(arrays[f"moving.{number}"]) for number in range(len(leaves))]
    learned, optimizer, learned_at_refresh, best = jax.tree.unflatten(tree, moving)
    progress_fields = json.loads(header["progress"])
    progress_fields |= {
        name: tuple(progress_fields[name]) for name in ("edge_capacities", "ended")
    }
    history = {
        name.removeprefix("history."): array
        for name, array in arrays.items()
        if name.startswith("history.")
    }
    return FitState(
        FitProgress(**progress_fields),
        learned,
        optimizer,
        learned_at_refresh,
        best,
        history,
    )


def fingerprint_fit(config: Any, *trees: Any) -> str:
    """Hashes settings and arrays by their content.

    Args:
        config: Settings, a dataclass.
        trees: Pytrees of arrays and names.

    Returns:
        SHA-256 as hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(config)).encode())
    leaves, tree = jax.tree.flatten(trees)
    digest.update(str(tree).encode())
    for leaf in leaves:
        host = np.asarray(leaf)
        digest.update(f"{host.dtype} {host.shape}".encode())
        digest.update(str(leaf).encode() if host.dtype.kind == "U" else host.tobytes())
    return digest.hexdigest()


def _state_arrays(
    state: FitState,
) -> tuple[LearnedArrays, Any, LearnedArrays, dict[str, Array]]:
    return state.learned, state.optimizer, state.learned_at_refresh, state.best
