import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffjax.networks import ResNet, forward
from diffjax.weights import PretrainedNetwork, load_or_export_network
from diffjax.weights import _export_cache as _kept

NAMES = ("pool1", "layer2")


@pytest.fixture(scope="module")
def network():
    return ResNet(depths=(1, 1, 1, 1), width=4, rngs=nnx.Rngs(0))


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "tiny.pth"
    path.write_bytes(b"what the network was loaded from")
    return path


class Keeper:
    """Keeps a network, or takes it from where it was kept; counts its loading."""

    def __init__(self, network, weights, folder):
        self.pretrained = PretrainedNetwork(network, "tiny", "mine", "0", 2.5, {})
        self.places = weights, folder
        self.loaded = 0

    def load(self):
        self.loaded += 1
        return self.pretrained

    def __call__(self):
        return load_or_export_network(self.load, *self.places)


@pytest.fixture
def keep(network, weights, tmp_path):
    return Keeper(network, weights, tmp_path / "networks")


def pictures(side=32, *, seed=0):
    """Two pictures on one canvas, the second smaller than it."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    return jnp.asarray(images), jnp.asarray([[side, side], [side // 2, side]])


def test_a_kept_network_gives_the_same_bits_and_is_not_loaded_again(keep, network):
    images, sizes = pictures()
    wanted = forward(network, images, sizes, names=NAMES)
    for _ in range(2):
        found = keep().network(images, sizes, names=NAMES)
        assert set(found) == set(NAMES)
        for name in NAMES:
            np.testing.assert_array_equal(found[name], wanted[name])
    assert keep.loaded == 1


def test_what_the_file_of_weights_knows_is_kept(keep, network):
    for _ in range(2):
        kept = keep()
        assert (kept.architecture, kept.gem_power) == ("tiny", 2.5)
        assert kept.network.strides == dict(network.strides)
        assert kept.network.multiple == network.multiple
    assert keep.loaded == 1


def test_a_new_shape_or_other_maps_are_traced_once(keep, network):
    keep().network(*pictures(), names=NAMES)
    images, sizes = pictures(64)
    for count in (2, 2):
        found = keep().network(images, sizes, names=("layer1",))
        wanted = forward(network, images, sizes, names=("layer1",))
        np.testing.assert_array_equal(found["layer1"], wanted["layer1"])
        assert keep.loaded == count


def test_a_program_that_was_called_compiles_nothing_for_other_pictures(keep, compiled):
    kept = keep()
    kept.network(*pictures(), names=NAMES)
    images, sizes = jax.block_until_ready(pictures(seed=1))
    before = len(compiled)
    kept.network(images, sizes, names=NAMES)
    assert len(compiled) == before


@pytest.mark.parametrize("change", ["weights", "sources", "settings", "JAX"])
def test_what_a_program_depends_on_sets_another_one_apart(
    keep, weights, change, monkeypatch, tmp_path
):
    keep()
    if change == "weights":
        weights.write_bytes(b"other weights")
    elif change == "sources":
        monkeypatch.setattr(_kept, "_SOURCE_FOLDERS", (tmp_path,))
    elif change == "settings":
        monkeypatch.setenv("XLA_FLAGS_OF_A_TEST", "1")
    else:
        monkeypatch.setattr(jax, "__version__", "0.0")
    keep()
    assert keep.loaded == 2


@pytest.mark.parametrize("kind", ["*.safetensors", "*.stablehlo"])
@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda _: b"", lambda d: d + b"0"]
)
def test_a_damaged_file_is_made_anew(keep, network, kind, damage, tmp_path):
    images, sizes = pictures()
    keep().network(images, sizes, names=NAMES)
    (path,) = (tmp_path / "networks").rglob(kind)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    found = keep().network(images, sizes, names=NAMES)
    wanted = forward(network, images, sizes, names=NAMES)
    np.testing.assert_array_equal(found["layer2"], wanted["layer2"])
    assert keep.loaded == 2
    assert path.read_bytes() == whole


def test_where_nothing_can_be_kept_it_works_all_the_same(keep, network, tmp_path):
    (tmp_path / "networks").touch()
    images, sizes = pictures()
    for count in (1, 2):
        found = keep().network(images, sizes, names=NAMES)
        wanted = forward(network, images, sizes, names=NAMES)
        np.testing.assert_array_equal(found["layer2"], wanted["layer2"])
        assert keep.loaded == count
