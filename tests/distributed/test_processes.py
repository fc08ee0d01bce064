"""Several processes give the answer of one, and none waits for one that died."""

import json
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from member import PATIENCE, RTOL, derivatives
from processes import Exit, run_members

from diffjax.diffusion import diffuse, query_vectors
from diffjax.graph import affinity, knn, normalize
from diffjax.pooling import pool

K, TOP = 9, 5


class Collection(NamedTuple):
    """Vectors of images, and queries; 2, 4 or 8 devices can not share the rows."""

    vectors: np.ndarray
    image_ids: np.ndarray
    queries: np.ndarray
    query_ids: np.ndarray


def draw(name: str) -> Collection:
    """49 vectors in clusters, as many in ten groups of equal ones, or only 3."""
    rng = np.random.default_rng(5)
    n = 3 if name == "few" else 49
    vectors = rng.normal(size=(6, 10))[rng.integers(6, size=n)]
    vectors = vectors + 0.5 * rng.normal(size=(n, 10))
    if name == "duplicates":
        vectors = np.tile(np.eye(10), (5, 1))[:n]
    queries = vectors[[0, 1, 1, 2]] + 0.1 * rng.normal(size=(4, 10))
    unit = [
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        for x in (vectors, queries)
    ]
    # Images of three and four rows, which no number of devices keeps together.
    image_ids = (np.arange(n) * 2 // 7).astype(np.int32)
    return Collection(unit[0], image_ids, unit[1], np.array([0, 1, 1, 2], np.int32))


def search_in_one_process(data: Collection, *, differentiate: bool) -> dict[str, Any]:
    """The same search on one device, as anyone would write it."""
    k = min(K, len(data.vectors))
    x, z = jnp.asarray(data.vectors), jnp.asarray(data.queries)
    lists = knn(data.vectors, k, method="sharded")
    affinities = affinity(lists)
    graph = normalize(affinities)
    y = {
        f"y {rule}": query_vectors(x, z, data.query_ids, k=k, rule=rule)
        for rule in ("paper", "official")
    }
    solution = diffuse(graph, y["y paper"], rtol=RTOL)
    images = pool(solution.value, data.image_ids)
    best = {}
    for name, scores in {"regions": solution.value, "images": images}.items():
        values, indices = jax.lax.top_k(scores.T, min(TOP, len(scores)))
        best |= {f"scores of {name}": values, f"best {name}": indices}
    if differentiate:
        by_alpha, by_y = derivatives(graph, y["y paper"], None)
        best |= {"derivative by alpha": by_alpha, "derivative by y": by_y}
    return {
        "indices": lists.indices,
        "similarities": lists.similarities,
        "edges": affinities.indices,
        "weights": graph.weights,
        "degrees": graph.degrees,
        "f": solution.value,
        "num_steps": solution.num_steps,
        **y,
        **best,
    }


def write_collections(folder: pathlib.Path, names: tuple[str, ...]) -> None:
    for name in names:
        np.savez(folder / f"{name}.npz", allow_pickle=False, **draw(name)._asdict())


def read_results(folder: pathlib.Path, name: str, *, processes: int) -> dict[str, Any]:
    """Results of all processes, with the shards put together in the order of rows."""
    paths = [folder / f"{name}-{rank}.npz" for rank in range(processes)]
    first, *others = [dict(np.load(path)) for path in paths]
    results = {}
    for field, array in first.items():
        other_arrays = [other[field] for other in others]
        if field.startswith("shard "):
            shards = [array, *other_arrays]
            results[field.removeprefix("shard ")] = np.concatenate(shards)
        else:
            results[field] = array
            for other in other_arrays:
                np.testing.assert_array_equal(other, array, err_msg=field)
    return results


def assert_same_results(results: dict[str, Any], expected: dict[str, Any]) -> None:
    """Lists, edges and answers are identical; numbers differ by rounding."""
    assert results.keys() == expected.keys()
    for name, array in expected.items():
        if np.issubdtype(array.dtype, np.integer):
            np.testing.assert_array_equal(results[name], array, err_msg=name)
        else:
            tolerance = 2e-5 * float(np.abs(array).max())
            np.testing.assert_allclose(
                results[name], array, rtol=2e-5, atol=tolerance, err_msg=name
            )


def search_and_compare(
    folder: pathlib.Path,
    names: tuple[str, ...],
    *,
    processes: int,
    devices: int,
    derivatives: str | None = None,
    dies: int | None = None,
) -> list[Exit]:
    """Compares the searches of several processes with those of one device."""
    write_collections(folder, names)
    task = {"search": True, "data": names, "k": K, "top": TOP, "dies": dies}
    task["derivatives"] = derivatives
    exits = run_members(task, folder, processes=processes, devices=devices)
    if dies is None:
        assert [one.code for one in exits] == [0] * processes, exits
    for name in names:
        assert_same_results(
            read_results(folder, name, processes=processes),
            search_in_one_process(draw(name), differentiate=name == derivatives),
        )
    messages = json.loads((folder / "uneven-0.json").read_text())
    arguments = "vectors", "neighbors", "graph", "vectors", "scores"
    count = processes * devices
    for message, argument in zip(messages, arguments, strict=True):
        assert message.startswith(
            f"{argument} must have a multiple of the mesh's {count} devices in rows, "
            "got 3: pad"
        )
    return exits


def test_eight_devices_of_one_process_give_the_answer_of_one(tmp_path):
    # The last device has none of the 49 vectors, the others 7 each, fewer than K.
    names = "clusters", "duplicates"
    search_and_compare(tmp_path, names, processes=1, devices=8, derivatives="clusters")


def test_two_processes_give_the_answer_of_one_and_one_that_dies_ends_the_other(
    tmp_path,
):
    # With several devices each it is JAX that ends the other, after its patience.
    names = ("clusters",)
    survivor, dead = search_and_compare(tmp_path, names, processes=2, devices=1, dies=1)
    began = float(survivor.errors.split("solving since ")[1].split()[0])
    assert time.monotonic() - began < 30 + PATIENCE
    assert_one_line_of_loss(survivor, dead)
    assert dead.code == 9
    assert "solved" not in survivor.errors


@pytest.mark.full
@pytest.mark.parametrize(("processes", "devices"), [(2, 2), (4, 1)])
def test_any_number_of_processes_and_devices_gives_the_answer_of_one(
    tmp_path, processes, devices
):
    names = "clusters", "duplicates", "few"
    how = {"processes": processes, "devices": devices}
    search_and_compare(tmp_path, names, **how, derivatives="clusters")


def assert_one_line_of_loss(survivor: Exit, dead: Exit) -> None:
    lines = [line for line in survivor.errors.splitlines() if line.startswith("error")]
    assert len(lines) == 1, survivor.errors + dead.errors
    assert lines[0].startswith("error: process 0 of 2 lost another one: see there for")
    assert survivor.code == 1


@pytest.mark.full
def test_a_process_with_a_fault_of_its_own_ends_the_other_with_one_line(tmp_path):
    write_collections(tmp_path, ("clusters",))
    task = {"data": ["clusters"], "k": K, "fails": 1}
    survivor, dead = run_members(task, tmp_path, processes=2)
    assert_one_line_of_loss(survivor, dead)
    assert dead.code == 1
    assert "KeyError: 'a fault of its own'" in dead.errors


@pytest.mark.full
def test_the_first_process_that_dies_ends_the_others_too(tmp_path):
    write_collections(tmp_path, ("clusters",))
    task = {"data": ["clusters"], "k": K, "dies": 0}
    dead, survivor = run_members(task, tmp_path, processes=2)
    assert dead.code == 9
    assert survivor.code != 0
    # JAX may see it before the solve does.
    messages = "process 1 of 2 lost another one", "another task died"
    assert any(words in survivor.errors for words in messages), survivor.errors
    assert "solved" not in survivor.errors
