import dataclasses

import numpy as np
import pytest
import scipy.sparse

from configs import scale as card
from diffjax.graph import affinity, compress, knn
from diffjax.index import Index
from diffjax.report import measurement_tables, read_records
from diffjax.types import Graph
from experiments.speed import scale
from experiments.speed._scale_phases import (
    BUILD_PHASES,
    edge_recall,
    measure_build_phase,
    measure_queries,
    write_vectors,
)


@pytest.mark.full
def test_phases_follow_each_other_and_the_last_leaves_an_index(tmp_path):
    vectors, index = tmp_path / "vectors.npy", tmp_path / "index"
    write_vectors(vectors, 1200, dim=16, seed=0)
    roles = []
    for phase in BUILD_PHASES:
        cost = measure_build_phase(phase, vectors, index, k=10, reach=100)
        assert cost["seconds"] > 0
        assert cost["peak_bytes"] >= 0
        roles.append({path.name.split("-")[0] for path in index.glob("*.npy")})
    for number, role in enumerate(("vectors", "similarities", "graph_starts")):
        assert role in roles[number]
        assert all(role not in earlier for earlier in roles[:number])
    got = measure_queries(vectors, index, queries=3, steps=50, seed=0)
    opened = Index.open(index, mmap=True)
    assert got["stored_edges"] == opened.store.arrays["graph_columns"].size
    assert got["recall"] == opened.recall
    assert got["recall"] > 0.8
    assert got["overlap"] > 0.5
    assert 0.8 < got["edge_recall"] <= 1
    assert 0 < got["query_seconds"] <= got["slowest_query_seconds"]
    assert got["whole_graph_residual"] < 1e-3


def test_edges_that_are_missing_are_counted(collection):
    vectors = collection.vectors.astype(np.float32)
    graph = compress(affinity(knn(vectors, 8)))
    every = {"k": 8, "sample": 1000, "seed": 0}
    assert edge_recall(vectors, graph, **every) == 1
    matrix = graph.to_scipy().tocoo()
    rows, columns = matrix.coords
    # Without the edges between even and odd nodes.
    is_stored = (rows + columns) % 2 == 0
    few = Graph.from_scipy(
        scipy.sparse.csr_array(
            (matrix.data[is_stored], (rows[is_stored], columns[is_stored])),
            shape=matrix.shape,
        )
    )
    np.testing.assert_allclose(edge_recall(vectors, few, **every), is_stored.mean())
    # Lists that hold more than the mutual ones are not asked for.
    longer = compress(affinity(knn(vectors, 20)))
    assert edge_recall(vectors, longer, **every) == 1


def test_slopes_are_those_of_power_laws():
    config = dataclasses.replace(card.full(), sizes=(10, 100, 1000), fit_from=100)
    powers = {phase: number for number, phase in enumerate(BUILD_PHASES)}
    phases = [
        {
            "regions": n,
            "phase": phase,
            # Below the sizes that count, another law.
            "seconds": 5.0 if n == 10 else float(n) ** power,
            "memory_mib": 5.0 if n == 10 else 3.0 * n,
            "written_mib": float(n),
        }
        for n in config.sizes
        for phase, power in powers.items()
    ]
    asked = [
        {"regions": n, "query_seconds": 0.1, "whole_graph_seconds": 2.0 * n}
        for n in config.sizes
    ]
    slopes = {
        entry["cost"]: entry["slope_in_log_log"]
        for entry in scale._slopes(config, phases, asked)
    }
    for phase, power in powers.items():
        np.testing.assert_allclose(slopes[f"seconds, {phase}"], power, atol=1e-9)
        np.testing.assert_allclose(slopes[f"memory, {phase}"], 1)
    np.testing.assert_allclose(slopes["bytes on the disk"], 1)
    np.testing.assert_allclose(slopes["seconds, local query"], 0, atol=1e-9)
    np.testing.assert_allclose(slopes["seconds, whole graph"], 1)
    few = dataclasses.replace(config, fit_from=1000)
    assert scale._slopes(few, phases, asked) == []


@pytest.mark.full
def test_quick_leaves_a_record_and_charts(tmp_path):
    config = card.quick()
    record = scale.run(config, tmp_path / "work", records=tmp_path)
    assert read_records(tmp_path / "scale.jsonl") == [record]
    phases = [entry for entry in record["results"] if "phase" in entry]
    assert [entry["phase"] for entry in phases] == 2 * list(BUILD_PHASES)
    assert len(measurement_tables(record["results"])) == 3
    # Disk is given back.
    assert not list((tmp_path / "work").iterdir())
    for name in "memory", "seconds":
        assert (tmp_path / f"scale_{name}.svg").is_file()
    sizes = {
        entry["cost"]: entry["slope_in_log_log"]
        for entry in record["results"]
        if "cost" in entry
    }
    assert 0.8 < sizes["bytes on the disk"] < 1.1
