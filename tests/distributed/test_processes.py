"""One, two and four processes give the answer of one, and none waits for the dead."""

import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from member import PATIENCE, slopes
from processes import Ended, run_members

from diffjax.diffusion import diffuse, query_vectors
from diffjax.graph import affinity, knn, normalize
from diffjax.pooling import pool

K, TOP = 9, 5


class Data(NamedTuple):
    """Vectors of images, and queries."""

    vectors: np.ndarray
    image_ids: np.ndarray
    queries: np.ndarray
    query_ids: np.ndarray


def draw(name: str) -> Data:
    """A collection; the rows of none can be shared out evenly."""
    rng = np.random.default_rng(5)
    n = {"clusters": 61, "few": 3, "duplicates": 30}[name]
    vectors = rng.normal(size=(6, 10))[rng.integers(6, size=n)]
    vectors = vectors + 0.5 * rng.normal(size=(n, 10))
    if name == "duplicates":
        vectors = np.tile(np.eye(3), (10, 1))
    queries = vectors[[0, 1, 1, 2]] + 0.1 * rng.normal(size=(4, vectors.shape[1]))
    unit = [
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        for x in (vectors, queries)
    ]
    # Images of three and four rows, which no number of devices keeps together.
    image_ids = (np.arange(n) * 2 // 7).astype(np.int32)
    query_ids = np.array([0, 1, 1, 2], np.int32)
    return Data(unit[0], image_ids, unit[1], query_ids)


def expected_of(data: Data, *, with_slopes: bool) -> dict[str, Any]:
    """The same search by one process, as anyone would write it."""
    k = min(K, len(data.vectors))
    x, z = jnp.asarray(data.vectors), jnp.asarray(data.queries)
    lists = knn(data.vectors, k, method="sharded")
    a = affinity(lists)
    graph = normalize(a)
    y = {
        f"y {rule}": query_vectors(x, z, data.query_ids, k=k, rule=rule)
        for rule in ("paper", "official")
    }
    solution = diffuse(graph, y["y paper"])
    images = pool(solution.value, data.image_ids)
    best = {}
    for name, scores in {"regions": solution.value, "images": images}.items():
        found = jax.lax.top_k(scores.T, min(TOP, len(scores)))
        best[f"scores of {name}"], best[f"best {name}"] = found
    if with_slopes:
        found = slopes(graph, y["y paper"], None)
        best["slope by alpha"], best["slope by y"] = found
    return {
        "indices": lists.indices,
        "similarities": lists.similarities,
        "edges": a.indices,
        "weights": graph.weights,
        "degrees": graph.degrees,
        "f": solution.value,
        "num_steps": solution.num_steps,
        **y,
        **best,
    }


def run(
    names: list[str], folder: pathlib.Path, *, slopes_of: str | None, **how: int
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What processes found, in the order of rows, and what one would have."""
    drawn = {name: draw(name) for name in names}
    for name, data in drawn.items():
        np.savez(folder / f"{name}.npz", allow_pickle=False, **data._asdict())
    task = {"does": "search", "data": names, "k": K, "top": TOP, "slopes": slopes_of}
    for ended in run_members(task, folder, **how):
        assert ended.code == 0, ended.errors
    for name, data in drawn.items():
        paths = [folder / f"{name}-{rank}.npz" for rank in range(how["processes"])]
        first, *others = [dict(np.load(path)) for path in paths]
        found = {}
        for field, array in first.items():
            parts = [array, *(other[field] for other in others)]
            if field.startswith("part "):
                found[field.removeprefix("part ")] = np.concatenate(parts)
            else:
                found[field] = array
                for part in parts:
                    np.testing.assert_array_equal(part, array, err_msg=field)
        yield found, expected_of(data, with_slopes=name == slopes_of)


def compare(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Lists, edges and answers are identical; numbers differ by rounding."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        if np.issubdtype(array.dtype, np.integer):
            np.testing.assert_array_equal(found[name], array, err_msg=name)
        else:
            close = 2e-5 * float(np.abs(array).max())
            np.testing.assert_allclose(
                found[name], array, rtol=2e-5, atol=close, err_msg=name
            )


@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (4, 1)])
def test_processes_give_the_answer_of_one(tmp_path, processes, devices):
    how = {"processes": processes, "devices": devices}
    slopes_of = "clusters" if processes == 2 else None
    (pair,) = run(["clusters"], tmp_path, slopes_of=slopes_of, **how)
    compare(*pair)


def test_eight_devices_of_one_process_give_the_answer_of_one_device(tmp_path):
    names = ["clusters", "few", "duplicates"]
    for pair in run(names, tmp_path, slopes_of="clusters", processes=1, devices=8):
        compare(*pair)
    said = json.loads((tmp_path / "uneven.json").read_text())
    names = "vectors", "neighbors", "graph", "vectors", "scores"
    for message, name in zip(said, names, strict=True):
        assert message.startswith(
            f"{name} must have a multiple of the mesh's 8 devices in rows, got 3: fill"
        )


def end_amid_a_solve(folder: pathlib.Path, does: str, rank: int) -> list[Ended]:
    """Ends one of two processes while both compute; the other must not wait for it."""
    np.savez(folder / "clusters.npz", **draw("clusters")._asdict())
    task = {"does": does, "data": ["clusters"], "k": K, "dies": rank, "fails": rank}
    began = time.monotonic()
    ended = run_members(task, folder, processes=2)
    assert time.monotonic() - began < 60 + PATIENCE
    return ended


@pytest.mark.parametrize("does", ["cut off", "fail"])
def test_a_process_that_ends_amid_a_solve_ends_the_other_with_one_line(tmp_path, does):
    survivor, dead = end_amid_a_solve(tmp_path, does, 1)
    lines = [line for line in survivor.errors.splitlines() if line.startswith("error")]
    assert len(lines) == 1, survivor.errors + dead.errors
    assert lines[0].startswith("error: process 0 of 2 lost another one: see there for")
    assert survivor.code == 1
    if does == "fail":
        assert dead.code == 1
        assert "KeyError: 'a fault of its own'" in dead.errors
    else:
        assert dead.code == 9
        assert "solving" in survivor.errors
        assert "solved" not in survivor.errors


def test_the_first_process_that_ends_ends_the_others_too(tmp_path):
    dead, survivor = end_amid_a_solve(tmp_path, "cut off", 0)
    assert dead.code == 9
    assert survivor.code != 0
    # JAX may see it before the solve does.
    said = "process 1 of 2 lost another one", "another task died"
    assert any(words in survivor.errors for words in said), survivor.errors
    assert "solved" not in survivor.errors
