import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_network import TinyNetwork

from diffjax.networks import Network, forward
from diffjax.weights import PretrainedNetwork, _export_cache, load_or_export_network

NAMES = ("first", "second")


@pytest.fixture(scope="module")
def network():
    tiny_network = TinyNetwork(rngs=nnx.Rngs(0))
    assert isinstance(tiny_network, Network)
    return tiny_network


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "tiny.pth"
    path.write_bytes(b"what the network was loaded from")
    return path


class CountingLoader:
    """Takes a network from the cache, or loads it; counts how often it loads."""

    def __init__(self, network, weights, folder):
        self.pretrained = PretrainedNetwork(network, "tiny", "mine", "0", 2.5, {})
        self.weights, self.folder = weights, folder
        self.count = 0

    def load(self):
        self.count += 1
        return self.pretrained

    def __call__(self):
        return load_or_export_network(self.load, self.weights, self.folder)


@pytest.fixture
def load_cached(network, weights, tmp_path):
    return CountingLoader(network, weights, tmp_path / "networks")


def pictures(side=32, *, seed=0):
    """Two pictures on one canvas, the second smaller than it."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    return jnp.asarray(images), jnp.asarray([[side, side], [side // 2, side]])


def test_a_cached_network_gives_the_same_maps_and_is_loaded_once(load_cached, network):
    images, sizes = pictures()
    expected = forward(network, images, sizes, names=NAMES)
    for _ in range(2):
        cached = load_cached()
        assert (cached.architecture, cached.gem_power) == ("tiny", 2.5)
        assert cached.network.strides == dict(network.strides)
        assert cached.network.multiple == network.multiple
        got = cached.network(images, sizes, names=NAMES)
        assert set(got) == set(NAMES)
        for name in NAMES:
            np.testing.assert_array_equal(got[name], expected[name])
    assert load_cached.count == 1


def test_a_new_shape_or_other_maps_are_traced_once(load_cached, network):
    load_cached().network(*pictures(), names=NAMES)
    images, sizes = pictures(48)
    expected = forward(network, images, sizes, names=("first",))
    for count in (2, 2):
        got = load_cached().network(images, sizes, names=("first",))
        assert set(got) == {"first"}
        np.testing.assert_array_equal(got["first"], expected["first"])
        assert load_cached.count == count


def test_a_second_call_compiles_nothing_for_other_pictures(load_cached, compiled):
    cached = load_cached()
    cached.network(*pictures(), names=NAMES)
    images, sizes = jax.block_until_ready(pictures(seed=1))
    before = len(compiled)
    cached.network(images, sizes, names=NAMES)
    assert len(compiled) == before


@pytest.mark.parametrize("change", ["weights", "sources", "settings", "JAX"])
def test_a_change_of_what_a_program_depends_on_loads_the_network_again(
    load_cached, weights, change, monkeypatch, tmp_path
):
    load_cached()
    if change == "weights":
        weights.write_bytes(b"other weights")
    elif change == "sources":
        monkeypatch.setattr(_export_cache, "_SOURCE_FOLDERS", (tmp_path,))
    elif change == "settings":
        monkeypatch.setenv("XLA_FLAGS_OF_A_TEST", "1")
    else:
        monkeypatch.setattr(jax, "__version__", "0.0")
    load_cached()
    assert load_cached.count == 2


@pytest.mark.parametrize("pattern", ["*.safetensors", "*.stablehlo"])
def test_a_damaged_file_is_written_again(load_cached, network, pattern, tmp_path):
    images, sizes = pictures()
    expected = forward(network, images, sizes, names=NAMES)
    load_cached().network(images, sizes, names=NAMES)
    (path,) = (tmp_path / "networks").rglob(pattern)
    damages = (
        lambda content: content[:-1],
        lambda _: b"",
        lambda content: content + b"0",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    )
    for count, damage in enumerate(damages, start=2):
        path.write_bytes(damage(path.read_bytes()))
        for _ in range(2):  # The second time from the file that was written again.
            got = load_cached().network(images, sizes, names=NAMES)
            np.testing.assert_array_equal(got["second"], expected["second"])
            assert load_cached.count == count


def test_a_folder_that_cannot_be_written_only_costs_time(
    load_cached, network, tmp_path
):
    (tmp_path / "networks").touch()
    images, sizes = pictures()
    expected = forward(network, images, sizes, names=NAMES)
    for count in (1, 2):
        got = load_cached().network(images, sizes, names=NAMES)
        np.testing.assert_array_equal(got["second"], expected["second"])
        assert load_cached.count == count
