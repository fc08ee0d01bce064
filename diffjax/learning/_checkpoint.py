"""Checkpoint of a fit: its state in memory and in a file to go on from."""

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
    """A checkpoint that can't be gone on from; the message says what to do."""


class FitProgress(NamedTuple):
    """The numbers of a state.

    Attributes:
        restart: Start that is being followed.
        step: Steps done from it.
        evaluations_without_gain: Evaluations without gain.
        restart_best: Best held-out value from this start.
        best: Best of all.
        best_step: Step of it.
        best_restart: Start of it.
        num_solves: Right-hand sides that were solved, for gradients and evaluations.
        edge_capacities: Places for edges since neighbours were last searched; empty
            before.
        ended: How each start before this one ended.
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
    """All that learning goes on from.

    Attributes:
        progress: Numbers.
        learned: What moves.
        optimizer: State of the optimiser.
        learned_at_refresh: What moves, when neighbours were last searched.
        best: What moves, at its best.
        history: What was noted so far.
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
    """Writes a state, whole or not at all.

    Args:
        path: The file.
        state: The state.
        fingerprint: Of what is learned, from what, on what.

    Raises:
        OSError: If it can't be written.
    """
    arrays = {f"history.{name}": each for name, each in state.history.items()}
    for number, leaf in enumerate(jax.tree.leaves(_state_arrays(state))):
        arrays[f"moving.{number}"] = np.asarray(leaf)
    header = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "progress": json.dumps(state.progress._asdict()),
    }
    dense = {name: np.array(each, order="C") for name, each in arrays.items()}
    write_atomically(path, safetensors.numpy.save(dense, header))


def load_state(
    path: str | os.PathLike[str], template: FitState, *, fingerprint: str
) -> FitState:
    """Reads a state back, bit by bit as it was.

    Args:
        path: The file.
        template: A state of the same learning, for its shapes.
        fingerprint: Of what is learned, from what, on what.

    Returns:
        The state.

    Raises:
        CheckpointError: If the file is none, or that of another learning.
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
    told = json.loads(header["progress"])
    told |= {name: tuple(told[name]) for name in ("edge_capacities", "ended")}
    history = {
        name.removeprefix("history."): each
        for name, each in arrays.items()
        if name.startswith("history.")
    }
    return FitState(
        FitProgress(**told), learned, optimizer, learned_at_refresh, best, history
    )


def fingerprint_fit(config: Any, *trees: Any) -> str:
    """Names settings and arrays by their content.

    Args:
        config: Settings, a dataclass.
        trees: Arrays, and what else says what is learned.

    Returns:
        A hash as hexadecimal digits.
    """
    told = hashlib.sha256(json.dumps(dataclasses.asdict(config)).encode())
    leaves, tree = jax.tree.flatten(trees)
    told.update(str(tree).encode())
    for leaf in leaves:
        host = np.asarray(leaf)
        told.update(f"{host.dtype} {host.shape}".encode())
        told.update(str(leaf).encode() if host.dtype.kind == "U" else host.tobytes())
    return told.hexdigest()


def _state_arrays(
    state: FitState,
) -> tuple[LearnedArrays, Any, LearnedArrays, dict[str, Array]]:
    return state.learned, state.optimizer, state.learned_at_refresh, state.best
