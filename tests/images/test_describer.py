import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage
from flax import nnx
from tiny_network import CHANNELS, TinyNetwork

from diffjax._io import file_digest
from diffjax.images import (
    DescriptorConfig,
    PictureBatch,
    _describer,
    read_pixels,
    resize_picture,
)
from diffjax.images._describer import Describer
from diffjax.networks import forward
from diffjax.regions import rmac_grid
from diffjax.types import Whitening
from diffjax.weights import PretrainedNetwork

SIDE = 96
CONFIG = DescriptorConfig(side=SIDE, map="second")  # 16 px per cell: 6 by 6 cells.


@pytest.fixture(scope="module")
def picture():
    path = pathlib.Path(skimage.__file__).parent / "data" / "chelsea.png"
    return resize_picture(read_pixels(path)[:, :300], side=SIDE)


@pytest.fixture(scope="module")
def pretrained():
    weights = _describer.find_weights_file(CONFIG)
    return PretrainedNetwork(
        network=TinyNetwork(rngs=nnx.Rngs(0)),
        architecture=weights.architecture,
        naming="tiny",
        fingerprint=file_digest(weights.path),
        gem_power=None,
        whitenings={},
    )


@pytest.fixture(autouse=True)
def shared_network(monkeypatch, pretrained):
    """All tests share one small network, whose programs are compiled once."""
    monkeypatch.setattr(_describer, "_load_network", lambda _: pretrained)


@pytest.fixture(scope="module")
def maps(picture, pretrained):
    """The map of the picture alone."""
    images, sizes = jnp.asarray(picture[None]), jnp.asarray([picture.shape[:2]])
    maps = forward(pretrained.network, images, sizes, names=("second",))["second"]
    return np.asarray(maps[0])


def batch(*pictures):
    sizes = np.array([p.shape[:2] for p in pictures], np.int32)
    images = np.zeros((len(pictures), *sizes.max(0), 3), np.uint8)
    for image, pixels in zip(images, pictures, strict=True):
        image[: pixels.shape[0], : pixels.shape[1]] = pixels
    return PictureBatch(images, sizes)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def pooled(maps, box, pool):
    y0, x0, y1, x1 = box
    return unit(pool(maps[y0:y1, x0:x1].reshape(-1, maps.shape[-1])))


def gem(p):
    return lambda cells: (np.maximum(cells, 1e-6) ** p).mean(0) ** (1 / p)


@pytest.mark.parametrize(
    ("settings", "pool"),
    [
        ({}, lambda cells: cells.max(0)),
        ({"aggregate": "spoc"}, lambda cells: cells.mean(0)),
        ({"aggregate": "gem"}, gem(3.0)),
        ({"aggregate": "gem", "gem_power": 5.0}, gem(5.0)),
        ({"grid": 2}, lambda cells: cells.max(0)),
    ],
    ids=["mac", "spoc", "gem", "gem 5", "two scales"],
)
def test_regions_are_those_of_the_grid(picture, maps, settings, pool):
    config = dataclasses.replace(CONFIG, **settings)
    got = Describer(config)((batch(picture),), (None,))
    grid = rmac_grid(*maps.shape[:2], scales=config.grid)
    assert got.counts.tolist() == [len(grid)]
    expected = [pooled(maps, box, pool) for box in grid]
    vectors = np.asarray(got.vectors)[0]
    np.testing.assert_allclose(vectors[: len(grid)], expected, atol=2e-5)
    np.testing.assert_array_equal(vectors[len(grid) :], 0)
    fractions = grid[:, [1, 0, 3, 2]] * 16 / np.array([picture.shape[1::-1] * 2])
    np.testing.assert_allclose(got.boxes[0, : len(grid)], fractions, rtol=1e-6)


def test_another_gem_power_compiles_nothing(picture, compiled):
    def describe(power):
        config = dataclasses.replace(CONFIG, aggregate="gem", gem_power=power)
        return Describer(config)((batch(picture),), (None,)).vectors

    describe(2.0)
    before = len(compiled)
    describe(4.0)
    assert len(compiled) == before


def test_given_regions_are_pooled_over_the_cells_that_they_touch(picture, maps):
    height, width, _ = picture.shape
    boxes = np.array(
        [
            [0, 0, 0.5, 1],  # The left half.
            [0.01, 0.01, 0.01 + 3 / width, 0.01 + 3 / height],  # 3 px in a cell.
        ],
        np.float32,
    )
    got = Describer(CONFIG)((batch(picture),), (boxes,))
    assert got.counts.tolist() == [2]
    np.testing.assert_array_equal(got.boxes[0, :2], boxes)
    rows, columns, _ = maps.shape
    cells = [(0, 0, rows, columns // 2), (0, 0, 1, 1)]
    expected = [pooled(maps, box, lambda cells: cells.max(0)) for box in cells]
    np.testing.assert_allclose(np.asarray(got.vectors)[0, :2], expected, atol=2e-5)


def test_many_given_regions_get_more_slots(picture):
    boxes = np.tile(np.array([[0, 0, 1, 1]], np.float32), (40, 1))
    got = Describer(CONFIG)((batch(picture, picture),), (boxes, None))
    assert got.counts.tolist() == [40, len(rmac_grid(6, 6))]
    vectors = np.asarray(got.vectors)
    assert vectors.shape[1] == 48
    np.testing.assert_allclose(vectors[0, :40], vectors[1, :1].repeat(40, 0), atol=1e-6)


def test_scales_are_averaged_region_by_region(picture):
    small = resize_picture(picture, side=64)
    config = dataclasses.replace(CONFIG, scales=(1.0, 2 / 3))
    assert config.sides == (96, 64)
    both = Describer(config)((batch(picture), batch(small)), (None,))
    large = Describer(CONFIG)((batch(picture),), (None,))
    boxes = large.boxes[0, : large.counts[0]]
    other = Describer(dataclasses.replace(CONFIG, side=64))((batch(small),), (boxes,))
    count = large.counts[0]
    mean = np.asarray(large.vectors)[0, :count] + np.asarray(other.vectors)[0, :count]
    np.testing.assert_allclose(
        np.asarray(both.vectors)[0, :count], unit(mean), atol=1e-5
    )
    np.testing.assert_array_equal(both.boxes, large.boxes)


def test_an_exported_network_gives_the_same_vectors(
    picture, pretrained, monkeypatch, tmp_path
):
    loaded = []
    monkeypatch.setattr(
        _describer, "_load_network", lambda _: loaded.append(1) or pretrained
    )
    wanted = Describer(CONFIG)((batch(picture),), (None,))
    assert len(loaded) == 1
    for _ in range(3):
        describe = Describer(CONFIG, export_folder=tmp_path)
        got = describe((batch(picture),), (None,))
        np.testing.assert_array_equal(got.vectors, wanted.vectors)
        assert describe.weights == pretrained.fingerprint
        assert len(loaded) == 2


def test_the_whitening_of_the_weights_file_is_applied(picture, pretrained, monkeypatch):
    draw = np.random.default_rng(0)
    mean, projection = draw.normal(size=CHANNELS) * 0.1, draw.normal(size=(CHANNELS, 7))
    whitening = Whitening(jnp.asarray(mean, "f4"), jnp.asarray(projection, "f4"))
    whitened = pretrained._replace(whitenings={"end-to-end": whitening})
    monkeypatch.setattr(_describer, "_load_network", lambda _: whitened)
    config = dataclasses.replace(CONFIG, network_whitening="end-to-end")
    got = np.asarray(Describer(config)((batch(picture),), (None,)).vectors)[0]
    plain = np.asarray(Describer(CONFIG)((batch(picture),), (None,)).vectors)[0]
    count = len(rmac_grid(6, 6))
    expected = unit((plain[:count] - mean) @ projection)
    np.testing.assert_allclose(got[:count], expected, atol=1e-5)


def test_gem_uses_the_power_of_the_weights_file(picture, pretrained, monkeypatch):
    learned = pretrained._replace(gem_power=2.5)
    monkeypatch.setattr(_describer, "_load_network", lambda _: learned)
    config = dataclasses.replace(CONFIG, aggregate="gem")
    default = Describer(config)((batch(picture),), (None,)).vectors
    explicit = dataclasses.replace(config, gem_power=2.5)
    np.testing.assert_array_equal(
        default, Describer(explicit)((batch(picture),), (None,)).vectors
    )
    other = dataclasses.replace(config, gem_power=4.0)
    assert np.any(default != Describer(other)((batch(picture),), (None,)).vectors)


def test_weights_with_a_power_are_pooled_by_gem(picture, pretrained, monkeypatch):
    learned = pretrained._replace(gem_power=2.5)
    monkeypatch.setattr(_describer, "_load_network", lambda _: learned)
    explicit = dataclasses.replace(CONFIG, aggregate="gem", gem_power=2.5)
    np.testing.assert_array_equal(
        Describer(CONFIG)((batch(picture),), (None,)).vectors,
        Describer(explicit)((batch(picture),), (None,)).vectors,
    )


@pytest.mark.parametrize("name", ["end-to-end", "some-data/ms"])
def test_scales_are_whitened_before_or_after_they_are_combined(
    picture, pretrained, monkeypatch, name
):
    # A layer of the network whitens every scale before they are combined; a whitening
    # that was fitted afterwards applies to scales combined by the power of GeM.
    draw = np.random.default_rng(0)
    mean, projection = draw.normal(size=CHANNELS) * 0.1, draw.normal(size=(CHANNELS, 7))
    whitening = Whitening(jnp.asarray(mean, "f4"), jnp.asarray(projection, "f4"))
    whitened = pretrained._replace(whitenings={name: whitening}, gem_power=2.5)
    monkeypatch.setattr(_describer, "_load_network", lambda _: whitened)
    small = resize_picture(picture, side=64)
    full = np.array([[0, 0, 1, 1]], np.float32)
    plain = [
        np.asarray(Describer(config)((batch(pixels),), (full,)).vectors)[0, 0]
        for config, pixels in (
            (CONFIG, picture),
            (dataclasses.replace(CONFIG, side=64), small),
        )
    ]
    if name == "end-to-end":
        expected = unit(sum(unit((v - mean) @ projection) for v in plain))
    else:
        combined = unit((sum(v**2.5 for v in plain) / 2) ** (1 / 2.5))
        expected = unit((combined - mean) @ projection)
    config = dataclasses.replace(CONFIG, scales=(1.0, 2 / 3), network_whitening=name)
    got = Describer(config)((batch(picture), batch(small)), (full,))
    np.testing.assert_allclose(np.asarray(got.vectors)[0, 0], expected, atol=2e-5)


def test_a_whitening_of_another_map_is_refused(pretrained, monkeypatch):
    whitening = Whitening(jnp.zeros(1280), jnp.zeros((1280, 7)))
    other = pretrained._replace(whitenings={"end-to-end": whitening})
    monkeypatch.setattr(_describer, "_load_network", lambda _: other)
    config = dataclasses.replace(CONFIG, network_whitening="end-to-end")
    with pytest.raises(ValueError, match=r"of 1280 dimensions, got map 'second' of 16"):
        Describer(config)


def test_the_default_map_is_the_last_one_that_is_not_a_pooling(picture):
    default, second, pool = (
        Describer(dataclasses.replace(CONFIG, map=name))((batch(picture),), (None,))
        for name in (None, "second", "pool")
    )
    np.testing.assert_array_equal(default.vectors, second.vectors)
    assert np.any(second.vectors != pool.vectors)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"map": "layer4"}, r"map of effic\S+ must be one of first, .* got 'layer4'"),
        (
            {"network_whitening": "pca"},
            r"one that the weights hold \(none\), got 'pca'",
        ),
        ({"network": "alexnet"}, r"network must be one of .*vgg16.* got 'alexnet'"),
        ({"network": "vgg16"}, r"weights must be given with network 'vgg16', or"),
        (
            {"network": "alexnet", "weights": "a.pth"},
            r"network must be one of .* got 'alexnet'",
        ),
    ],
    ids=str,
)
def test_unknown_networks_maps_and_whitenings_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        Describer(dataclasses.replace(CONFIG, **settings))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"side": 100}, "side must be a multiple of 32"),
        ({"grid": 0}, "grid must be at least 1, got 0"),
        ({"aggregate": "max"}, r"aggregate must be one of \('mac'"),
        (
            {"gem_power": 2.0, "aggregate": "mac"},
            "gem_power must go with aggregate 'gem', got 'mac'",
        ),
        ({"aggregate": "gem", "gem_power": 0.0}, "gem_power must be"),
        ({"scales": ()}, r"scales must be one or more in \(0, 2\]"),
        ({"scales": (1.0, 3.0)}, r"scales must be one or more in \(0, 2\]"),
        ({"scales": (1.0, 0.99)}, r"scales must give different .* \(320, 320\) px"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings, complaint, unchecked):
    with pytest.raises(ValueError, match=complaint):
        DescriptorConfig(**settings)


def test_the_fingerprint_depends_on_settings_and_weights_not_on_their_path():
    one, other = CONFIG, dataclasses.replace(CONFIG, weights="/some/where.pth")
    assert one.fingerprint("ab") == other.fingerprint("ab")
    assert one.fingerprint("ab") != one.fingerprint("cd")
    assert one.fingerprint("ab") != dataclasses.replace(one, grid=2).fingerprint("ab")


def test_a_batch_has_one_picture_per_device():
    assert jax.local_device_count() == Describer(CONFIG).batch_size
