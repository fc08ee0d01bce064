"""Procedural textures: a random scalar field seen through a random palette.

Every function draws all it needs from the generator it is given, so two textures are
alike only if their generators were.
"""

import colorsys

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image


def texture(
    rng: np.random.Generator, size: tuple[int, int], *, regular: bool = True
) -> Image.Image:
    """Makes a coloured texture.

    Args:
        rng: Where all randomness comes from; advanced.
        size: Width and height in pixels.
        regular: Whether stripes, lattices and rings are among the fields.

    Returns:
        An RGB picture: one of the fields of this module, its values looked up in a
        palette of two to five random colours, under uneven light.
    """
    fields = _IRREGULAR + _REGULAR if regular else _IRREGULAR
    # Large textures are drawn at half their size: a quarter of the time.
    width, height = size
    half = ((width + 1) // 2, (height + 1) // 2) if max(size) > 60 else size
    field = fields[rng.integers(len(fields))](rng, half)
    picture = Image.fromarray(np.clip(field * 255, 0, 255).astype(np.uint8))
    picture.putpalette(palette(rng).tobytes())
    picture = picture.convert("RGB")
    darkest = int(rng.integers(25, 150))
    shade = Image.fromarray(rng.integers(0, darkest, (3, 3), np.uint8))
    picture.paste((0, 0, 0), (0, 0), shade.resize(half, Image.Resampling.BILINEAR))
    return picture.resize(size, Image.Resampling.BILINEAR)


def palette(rng: np.random.Generator) -> UInt8[np.ndarray, "256 3"]:
    """Draws a colour for each of 256 levels, by way of two to five random colours.

    Args:
        rng: Where all randomness comes from; advanced.

    Returns:
        RGB colours. Hues lie around one random hue or anywhere, half and half, and
        saturation is low more often than high, as in photographs.
    """
    stops = int(rng.integers(2, 6))
    spread = 1.0 if rng.random() < 0.5 else 0.12
    hues = (rng.random() + spread * rng.random(stops)) % 1
    saturations, values = rng.beta(1.2, 2.6, stops), rng.uniform(0.05, 1, stops)
    colours = np.array(
        [
            colorsys.hsv_to_rgb(*stop)
            for stop in zip(hues, saturations, values, strict=True)
        ]
    )
    at = np.linspace(0, 1, stops)
    levels = np.linspace(0, 1, 256)
    channels = [np.interp(levels, at, colours[:, channel]) for channel in range(3)]
    return (255 * np.stack(channels, axis=1)).astype(np.uint8)


def smooth_noise(
    rng: np.random.Generator, size: tuple[int, int], *, cell: float
) -> Float[np.ndarray, "h w"]:
    """Draws noise that changes over about `cell` pixels.

    Args:
        rng: Where all randomness comes from; advanced.
        size: Width and height in pixels.
        cell: Distance between independent values, in pixels.

    Returns:
        Values in [0, 1].
    """
    width, height = size
    coarse = (int(height / cell) + 2, int(width / cell) + 2)
    noise = Image.fromarray(rng.integers(0, 256, coarse, np.uint8))
    fine = noise.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(fine, np.float32) / np.float32(255)


def _fractal(rng, size):
    """Noise at several scales, each finer one weaker: clouds, stone, rust."""
    cell, fade = max(size) / rng.uniform(1.5, 5), rng.uniform(0.45, 0.9)
    total = smooth_noise(rng, size, cell=cell)
    for octave in range(1, 4):
        finer = smooth_noise(rng, size, cell=max(cell / 2**octave, 1.5))
        total = total + fade**octave * finer
    low, high = total.min(), total.max()
    return (total - low) / max(high - low, 1e-6)


def _plane(rng, size, *, warp):
    """Coordinates in pixels, turned by a random angle and bent by up to `warp`."""
    width, height = size
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if warp:
        cell = max(size) / rng.uniform(1.5, 4)
        u = u + warp * smooth_noise(rng, size, cell=cell)
        v = v + warp * smooth_noise(rng, size, cell=cell)
    return u.astype(np.float32), v.astype(np.float32)


def _stripes(rng, size):
    """Bands or waves: wood, cloth, fences."""
    u, _ = _plane(rng, size, warp=rng.choice([0, 10, 60]))
    wave = np.sin(u * (2 * np.pi / rng.uniform(5, 40)) + rng.uniform(0, 6))
    return 0.5 + 0.5 * np.clip(wave * rng.uniform(1, 5), -1, 1)


def _lattice(rng, size):
    """Dots, checks and tiles."""
    u, v = _plane(rng, size, warp=rng.choice([0, 15]))
    step = rng.uniform(6, 40)
    a = np.sin(u * (2 * np.pi / step))
    b = np.sin(v * (2 * np.pi / (step * rng.uniform(0.5, 2))))
    wave = a * b if rng.random() < 0.5 else np.maximum(a, b) - rng.uniform(0.2, 0.9)
    return 0.5 + 0.5 * np.clip(wave * rng.uniform(1, 6), -1, 1)


def _cells(rng, size):
    """Distance to the nearest of scattered points: pebbles, scales, cracks."""
    width, height = size
    points = rng.random((int(rng.integers(8, 30)), 2), np.float32) * [width, height]
    u, v = np.mgrid[:height, :width].astype(np.float32)[::-1]
    near = np.full((height, width), np.inf, np.float32)
    for x, y in points.astype(np.float32):
        near = np.minimum(near, (u - x) ** 2 + (v - y) ** 2)
    near = np.sqrt(near)
    return near / max(near.max(), 1e-6)


def _grain(rng, size):
    """Fine noise over a slope: sand, carpet, plain walls."""
    base = smooth_noise(rng, size, cell=max(size) / rng.uniform(0.5, 2))
    fine = smooth_noise(rng, size, cell=rng.uniform(1, 4))
    return base + rng.uniform(0.05, 0.5) * (fine - 0.5)


def _rings(rng, size):
    """Circles around one point: targets, tree rings, gradients of round things."""
    width, height = size
    u, v = _plane(rng, size, warp=rng.choice([0, 20]))
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    far = np.hypot(u - u.mean() + x - width / 2, v - v.mean() + y - height / 2)
    period = max(size) * rng.choice([0.08, 0.2, 2])
    return 0.5 + 0.5 * np.sin(far * (2 * np.pi / period))


_IRREGULAR = (_fractal, _fractal, _fractal, _cells, _cells, _grain, _grain, _grain)
_REGULAR = (_stripes, _lattice, _rings)
