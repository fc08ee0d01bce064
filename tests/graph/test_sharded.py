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
given, found = np.load(sys.argv[1]), {}
for name, vectors in given.items():
    for mesh in meshes:
        lists = knn(vectors, int(sys.argv[3]), method="sharded", mesh=meshes[mesh])
        for field, values in lists._asdict().items():
            found[f"{name} {mesh} {field}"] = np.asarray(values)
np.savez(sys.argv[2], **found)
"""
MESHES = "1", "2", "2x4", "all"
K = 9  # More than any of eight devices holds of 61 vectors.


def draw(n):
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(6, 10))[rng.integers(6, size=n)]
    vectors = vectors + 0.5 * rng.normal(size=(n, 10))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def given():
    """Numbers of vectors that 2 and 8 do and do not divide, one part all padding."""
    vectors = {str(n): draw(n).astype(np.float32) for n in (64, 61, 9)}
    return vectors | {
        "doubles": draw(61),
        "duplicates": np.tile(np.eye(3, dtype=np.float32), (10, 1)),
    }


@pytest.fixture(scope="module")
def found(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    paths = folder / "given.npz", folder / "found.npz"
    np.savez(paths[0], **given)
    subprocess.run(
        [sys.executable, "-c", _ON_EIGHT_DEVICES, *paths, str(K)], check=True
    )
    return np.load(paths[1])


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", ["64", "61", "9"])
def test_gives_the_exact_lists_on_any_number_of_devices(given, found, name, mesh):
    expected = knn(given[name], K)
    np.testing.assert_array_equal(found[f"{name} {mesh} indices"], expected.indices)
    np.testing.assert_allclose(
        found[f"{name} {mesh} similarities"], expected.similarities, atol=1e-6
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mesh", MESHES)
def test_doubles_stay_double(given, found, mesh):
    expected = knn(given["doubles"], K)
    similarities = found[f"doubles {mesh} similarities"]
    assert similarities.dtype == np.float64
    np.testing.assert_array_equal(found[f"doubles {mesh} indices"], expected.indices)
    np.testing.assert_allclose(similarities, expected.similarities, atol=1e-14)


@pytest.mark.parametrize("mesh", MESHES)
def test_ties_go_by_lower_index_whichever_device_finds_them_first(found, mesh):
    np.testing.assert_array_equal(
        found[f"duplicates {mesh} indices"],
        np.arange(30)[:, None] % 3 + 3 * np.arange(K),
    )


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
