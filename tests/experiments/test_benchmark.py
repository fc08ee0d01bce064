import dataclasses

import numpy as np
import pytest

from configs import benchmark as card
from diffjax.diffusion import diffuse
from diffjax.report import read_records
from experiments import _timing
from experiments._timing import compare_times, time_calls, time_interleaved
from experiments.speed import benchmark
from experiments.speed._synthetic_graphs import GRAPH_KINDS, make_synthetic_graph


def test_timings_are_interleaved_after_a_round_that_is_not_counted():
    calls_made = []
    calls = {
        name: lambda number, n=name: calls_made.append((n, number)) for name in "ab"
    }
    times = time_interleaved(calls, rounds=2)
    assert calls_made == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert [len(seconds) for seconds in times.values()] == [2, 2]
    got = compare_times("c", {"a": [4.0, 6, 10], "b": [2.0, 2, 2]}, than="a", by="b")
    assert (got["least"], got["times_faster"], got["largest"]) == (2, 3, 5)
    assert (got["seconds"], got["seconds_against"]) == (2, 6)


def test_the_least_of_the_counted_times_is_given(monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 22.0, 30.0, 35.0])
    monkeypatch.setattr(_timing.time, "perf_counter", lambda: next(clock))
    assert time_calls(lambda: None, lambda: None, rounds=2) == (2.0, 1.0)


@pytest.fixture(scope="module")
def config():
    return dataclasses.replace(card.quick(), rounds=1)


def test_synthetic_graphs_have_exact_answers_to_their_queries(config):
    problem = make_synthetic_graph(config, "manifolds")
    y = problem.dense(slice(0, 2))
    assert y.shape == (600, 2)
    assert ((y > 0).sum(0) == config.query_k).all()
    np.testing.assert_allclose(y[problem.nodes[1], 1], problem.values[1])
    y_in_vector_order = np.asarray(problem.layout.unpermute(y))
    exact = np.linalg.solve(problem.matrix.toarray().astype(float), y_in_vector_order)
    exact = exact[np.asarray(problem.layout.order)]
    assert problem.overlap(1, exact[:, 1]) == 1
    assert problem.overlap(1, -exact[:, 1]) < 0.5
    ours = diffuse(problem.graph, y, alpha=config.alpha, max_steps=200).value
    np.testing.assert_allclose(ours, exact, rtol=1e-3)


@pytest.mark.full
def test_every_claim_has_its_ratio(config, tmp_path):
    record, curves = benchmark.run(config, tmp_path, records=tmp_path)
    assert read_records(tmp_path / "benchmark.jsonl") == [record]
    assert read_records(tmp_path / "benchmark_curves.jsonl") == [curves]
    claims, points = record["results"], curves["results"]
    assert len({(r["claim"], r["against"]) for r in claims}) == len(claims) == 14
    for got in claims:
        assert 0 < got["least"] <= got["times_faster"] <= got["largest"]
    assert {point["graph"] for point in points} == set(GRAPH_KINDS)
    before = {
        p["solver"] for p in points if p["offline_seconds"] > 0 < p["offline_bytes"]
    }
    assert before == {
        "CG + 8 eigenvectors",
        "CG + 40 eigenvectors",
        "fast spectral ranking",
        "offline rows",
    }
    for kind in GRAPH_KINDS:
        right = {
            (p["solver"], p["setting"]): p["overlap"]
            for p in points
            if p["graph"] == kind
        }
        for solver in ("CG", "Chebyshev", "classic"):
            assert right[solver, 2] < right[solver, 20]
        for solver in ("local", "offline rows"):
            assert right[solver, 40] < right[solver, 100]
        assert right["fast spectral ranking", 8] < right["fast spectral ranking", 40]
        for name in (
            "CG + 8 eigenvectors",
            "CG + 40 eigenvectors",
            "CG, refined query",
        ):
            assert right[name, 3] > right["CG", 2]
        assert right["CG", 20] > 0.99
        for suffix in ("png", "svg"):
            assert (tmp_path / f"benchmark_{kind}.{suffix}").is_file()
