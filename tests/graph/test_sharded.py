import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax._sharding import flat_mesh
from diffjax.graph import knn
from diffjax.graph._sharded import ring_search

# The number of devices is fixed before the first is used: one process for all tests.
_ON_EIGHT_DEVICES = """
import sys
import chex
chex.set_n_cpu_devices(8)
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
from diffjax.graph import knn
devices = np.array(jax.devices())
meshes = {
    "1": jax.sharding.Mesh(devices[:1], "a"),
    "2": jax.make_mesh((2,), ("a",), devices=devices[:2],
                       axis_types=(jax.sharding.AxisType.Auto,)),
    "2x4": jax.sharding.Mesh(devices.reshape(2, 4), ("a", "b")),
    "all": None,
}
inputs, results = np.load(sys.argv[1]), {}
for case in sys.argv[4:]:
    name, mesh = case.split()
    lists = knn(inputs[name], int(sys.argv[3]), method="sharded", mesh=meshes[mesh])
    for field, values in lists._asdict().items():
        results[f"{case} {field}"] = np.asarray(values)
np.savez(sys.argv[2], **results)
"""
MESHES = "1", "2", "2x4", "all"
FLOATS = "64", "61", "9"
# Every mesh and every number of vectors; the product is in the full grid.
CASES = ("64", "2"), ("61", "1"), ("61", "2x4"), ("9", "all")
MORE = [case for case in itertools.product(FLOATS, MESHES) if case not in CASES] + list(
    itertools.product(("doubles", "duplicates"), ("1", "2", "all"))
)
K = 9  # More than any of eight devices holds of 61 vectors.


def draw(n):
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(6, 10))[rng.integers(6, size=n)]
    vectors = vectors + 0.5 * rng.normal(size=(n, 10))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def inputs():
    """Numbers of vectors that 2 and 8 do and do not divide, one shard all padding."""
    vectors = {name: draw(int(name)).astype(np.float32) for name in FLOATS}
    return vectors | {
        "doubles": draw(61),
        "duplicates": np.tile(np.eye(3, dtype=np.float32), (10, 1)),
    }


def search_on_eight_devices(inputs, cases, folder) -> dict[str, np.ndarray]:
    paths = folder / "inputs.npz", folder / "results.npz"
    np.savez(paths[0], **inputs)
    program = [sys.executable, "-c", _ON_EIGHT_DEVICES, *paths, str(K)]
    subprocess.run([*program, *map(" ".join, cases)], check=True)
    return dict(np.load(paths[1]))


def check_lists(inputs, results, name, mesh):
    indices = results[f"{name} {mesh} indices"]
    if name == "duplicates":
        expected = np.arange(30)[:, None] % 3 + 3 * np.arange(K)
        np.testing.assert_array_equal(indices, expected)
        return
    expected = knn(inputs[name], K)
    similarities = results[f"{name} {mesh} similarities"]
    assert similarities.dtype == inputs[name].dtype
    tolerance = 1e-6 if similarities.dtype == np.float32 else 1e-14
    np.testing.assert_array_equal(indices, expected.indices)
    np.testing.assert_allclose(similarities, expected.similarities, atol=tolerance)


# One test, so that one worker starts the process.
@pytest.mark.usefixtures("x64")
def test_lists_are_exact_double_and_ordered_by_index_on_any_mesh(inputs, tmp_path):
    cases = *CASES, ("doubles", "2x4"), ("duplicates", "2x4")
    results = search_on_eight_devices(inputs, cases, tmp_path)
    for case in cases:
        check_lists(inputs, results, *case)


@pytest.mark.full
@pytest.mark.usefixtures("x64")
def test_lists_are_exact_on_every_mesh(inputs, tmp_path):
    results = search_on_eight_devices(inputs, MORE, tmp_path)
    for case in MORE:
        check_lists(inputs, results, *case)


def test_compiles_for_every_kind_of_device():
    line = flat_mesh(np.array(jax.devices()[:1]))
    search = jax.jit(lambda *v: ring_search(*v, k=5, mesh=line))
    exported = jax.export.export(search, platforms=["cpu", "cuda", "tpu"])(
        jax.ShapeDtypeStruct((70, 8), jnp.float32), jax.ShapeDtypeStruct((70,), bool)
    )
    assert exported.out_avals[0].shape == (70, 5)


def test_rejects_a_mesh_together_with_another_search(collection):
    line = jax.sharding.Mesh(np.array(jax.devices()[:1]), "a")
    with pytest.raises(ValueError, match="mesh must be None with method 'exact'"):
        knn(collection.vectors.astype(np.float32), 3, mesh=line)
