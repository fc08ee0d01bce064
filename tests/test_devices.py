"""Two and eight devices give the scores and gradients of one."""

import json
import os
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion import diffuse
from diffjax.graph import affinity, compress, knn, normalize

ON_EIGHT = pathlib.Path(__file__).parent / "eight_devices.py"


def run_on_eight(*arguments: str) -> dict[str, float]:
    """Runs the program with eight host devices; returns its numbers by name."""
    done = subprocess.run(
        [sys.executable, ON_EIGHT, *arguments],
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


TOLERANCES = {"float32": 1e-5, "float64": 1e-12}


@pytest.mark.full
def test_every_solver_on_many_devices_gives_the_scores_of_one():
    report = run_on_eight("every solver")
    for count in (2, 8):
        for solver in ("cg", "chebyshev", "iterate", "unnormalized-jacobi"):
            for dtype, tolerance in TOLERANCES.items():
                name = f"{solver} {dtype} on {count}"
                assert report[name] < tolerance, name


@pytest.mark.full
def test_rows_on_many_devices_give_the_scores_and_gradients_of_one():
    # One test, so that one worker runs the program once.
    report = run_on_eight("all parts")
    assert report["devices"] == 8
    for name in (
        "cg float64 on 2",
        "cg float64 on 8",
        "chebyshev float64 on 8",
        "unnormalized-jacobi float64 on 8",
    ):
        assert report[name] < 1e-12, name
    assert report["cg float32 on 8"] < 1e-5
    assert report["gradient on 8"] < 1e-9
    assert report["vmap on 8"] < 1e-12
    assert report["known on 8"] < 1e-12
    for name in ("product", "cg", "slope", "eager", "cg in JAX"):
        assert report[f"compressed {name}"] < 1e-5, name
    # The programs differ only in the devices that they run on.
    assert report["described"] < 1e-5
    assert report["pictures at a time"] == 8
    assert report["pictures on each of 8"] == 1
    assert report["rows on each of 8"] == 11  # 86 rows, padded to 88.


def test_a_mesh_requires_the_padded_form(collection):
    graph = normalize(compress(affinity(knn(collection.vectors.astype("f4"), 5))))
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(ValueError, match="graph must be in the padded form to be spr"):
        diffuse(graph, jnp.ones((graph.num_nodes, 1)), mesh=mesh)


class VariantsTest(chex.TestCase):
    """With and without compilation, from the host and from the device."""

    @chex.variants(  # pyright: ignore[reportCallIssue]  # Untyped by chex.
        with_jit=True, without_jit=True, with_device=True
    )
    def test_every_variant_gives_the_same_scores(self):
        vectors = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        graph = normalize(affinity(knn(vectors, 6)))
        y = np.eye(30, dtype=np.float32)[:, :3]
        expected = np.linalg.solve(np.eye(30) - 0.9 * graph.to_scipy().toarray(), y)

        def scores(graph, y):
            return diffuse(graph, jnp.asarray(y), alpha=0.9, max_steps=100).value

        got = self.variant(scores)(graph, y)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
