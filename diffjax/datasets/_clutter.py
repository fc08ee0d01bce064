"""Procedural textures and clutter: backgrounds without objects."""

import colorsys
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter


def draw_texture(
    rng: np.random.Generator, size: tuple[int, int], *, regular: bool = True
) -> Image.Image:
    """Draws a coloured texture.

    Args:
        rng: Source of randomness; advanced.
        size: Width and height in pixels.
        regular: Whether stripes, lattices and rings are among the fields.

    Returns:
        An RGB picture: one of the scalar fields of this module, coloured by a palette
        of two to five random colours, under uneven light.
    """
    fields = _IRREGULAR + _REGULAR if regular else _IRREGULAR
    # Large textures are drawn at half their size, in a quarter of the time.
    width, height = size
    half = ((width + 1) // 2, (height + 1) // 2) if max(size) > 60 else size
    field = fields[rng.integers(len(fields))](rng, half)
    picture = Image.fromarray(np.clip(field * 255, 0, 255).astype(np.uint8))
    picture.putpalette(draw_palette(rng).tobytes())
    picture = picture.convert("RGB")
    darkest = int(rng.integers(25, 150))
    shade = Image.fromarray(rng.integers(0, darkest, (3, 3), np.uint8))
    picture.paste((0, 0, 0), (0, 0), shade.resize(half, Image.Resampling.BILINEAR))
    return picture.resize(size, Image.Resampling.BILINEAR)


def draw_palette(rng: np.random.Generator) -> UInt8[np.ndarray, "256 3"]:
    """Draws a palette of 256 levels, interpolated between two to five random colours.

    Args:
        rng: Source of randomness; advanced.

    Returns:
        RGB colours. Half of the palettes have hues around one random hue, half of any
        hue; saturation is low more often than high, as in photographs.
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
    positions = np.linspace(0, 1, stops)
    levels = np.linspace(0, 1, 256)
    channels = [
        np.interp(levels, positions, colours[:, channel]) for channel in range(3)
    ]
    return (255 * np.stack(channels, axis=1)).astype(np.uint8)


def smooth_noise(
    rng: np.random.Generator, size: tuple[int, int], *, cell: float
) -> Float[np.ndarray, "h w"]:
    """Draws smooth noise with a correlation length of about `cell` pixels.

    Args:
        rng: Source of randomness; advanced.
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
    """Fractal noise, weaker at finer scales: clouds, stone, rust."""
    cell, fade = max(size) / rng.uniform(1.5, 5), rng.uniform(0.45, 0.9)
    total = smooth_noise(rng, size, cell=cell)
    for octave in range(1, 4):
        finer = smooth_noise(rng, size, cell=max(cell / 2**octave, 1.5))
        total = total + fade**octave * finer
    low, high = total.min(), total.max()
    return (total - low) / max(high - low, 1e-6)


def _warped_coordinates(rng, size, *, warp):
    """Pixel coordinates, rotated by a random angle and warped by up to `warp`."""
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
    """Stripes or waves: wood, cloth, fences."""
    u, _ = _warped_coordinates(rng, size, warp=rng.choice([0, 10, 60]))
    wave = np.sin(u * (2 * np.pi / rng.uniform(5, 40)) + rng.uniform(0, 6))
    return 0.5 + 0.5 * np.clip(wave * rng.uniform(1, 5), -1, 1)


def _lattice(rng, size):
    """Lattice of dots, checks or tiles."""
    u, v = _warped_coordinates(rng, size, warp=rng.choice([0, 15]))
    step = rng.uniform(6, 40)
    a = np.sin(u * (2 * np.pi / step))
    b = np.sin(v * (2 * np.pi / (step * rng.uniform(0.5, 2))))
    wave = a * b if rng.random() < 0.5 else np.maximum(a, b) - rng.uniform(0.2, 0.9)
    return 0.5 + 0.5 * np.clip(wave * rng.uniform(1, 6), -1, 1)


def _cells(rng, size):
    """Distance to the nearest of random points: pebbles, scales, cracks."""
    width, height = size
    points = rng.random((int(rng.integers(8, 30)), 2), np.float32) * [width, height]
    u, v = np.mgrid[:height, :width].astype(np.float32)[::-1]
    nearest = np.full((height, width), np.inf, np.float32)
    for x, y in points.astype(np.float32):
        nearest = np.minimum(nearest, (u - x) ** 2 + (v - y) ** 2)
    nearest = np.sqrt(nearest)
    return nearest / max(nearest.max(), 1e-6)


def _grain(rng, size):
    """Fine noise on a gradient: sand, carpet, plain walls."""
    base = smooth_noise(rng, size, cell=max(size) / rng.uniform(0.5, 2))
    fine = smooth_noise(rng, size, cell=rng.uniform(1, 4))
    return base + rng.uniform(0.05, 0.5) * (fine - 0.5)


def _rings(rng, size):
    """Circles around one point: targets, tree rings, radial gradients."""
    width, height = size
    u, v = _warped_coordinates(rng, size, warp=rng.choice([0, 20]))
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    radius = np.hypot(u - u.mean() + x - width / 2, v - v.mean() + y - height / 2)
    period = max(size) * rng.choice([0.08, 0.2, 2])
    return 0.5 + 0.5 * np.sin(radius * (2 * np.pi / period))


_IRREGULAR = (_fractal, _fractal, _fractal, _cells, _cells, _grain, _grain, _grain)
_REGULAR = (_stripes, _lattice, _rings)


class Patch(NamedTuple):
    """Textured shape to paste.

    Attributes:
        picture: Pixels, RGB.
        mask: Opacity of the pixels, mode L; soft at the outline.
    """

    picture: Image.Image
    mask: Image.Image


def draw_clutter_picture(
    rng: np.random.Generator, size: tuple[int, int], *, patches: int = 30
) -> Image.Image:
    """Draws a picture of clutter.

    Args:
        rng: Source of randomness; advanced.
        size: Width and height in pixels.
        patches: Number of shapes; the largest are drawn first.

    Returns:
        An RGB picture.
    """
    width, height = size
    # Pictures with a regular ground of one kind would all look alike.
    canvas = draw_texture(rng, size, regular=False)
    sides = max(size) * np.exp(rng.uniform(np.log(0.06), np.log(0.6), patches))
    for side in sorted(sides, reverse=True):
        shape = draw_patch(rng, _draw_patch_size(rng, side))
        x = int(rng.uniform(0, width) - shape.mask.width / 2)
        y = int(rng.uniform(0, height) - shape.mask.height / 2)
        paste_patch(rng, canvas, shape, (x, y))
    for _ in range(rng.integers(2, 8)):
        _draw_scribble(rng, canvas)
    return canvas


def draw_patch(rng: np.random.Generator, size: tuple[int, int]) -> Patch:
    """Draws one textured shape.

    Args:
        rng: Source of randomness; advanced.
        size: Width and height of its bounding box in pixels.

    Returns:
        A textured polygon, star, ellipse, ring, bar or blob.
    """
    mask = _SHAPES[rng.integers(len(_SHAPES))](rng, size)
    return Patch(draw_texture(rng, size), mask.filter(ImageFilter.BoxBlur(0.7)))


def paste_patch(
    rng: np.random.Generator,
    canvas: Image.Image,
    patch: Patch,
    corner: tuple[int, int],
) -> None:
    """Pastes a patch into a picture, half of the time over a soft shadow.

    Args:
        rng: Source of randomness; advanced.
        canvas: RGB picture, changed in place.
        patch: The patch.
        corner: Position of its left upper corner, which may be outside the canvas.
    """
    x, y = corner
    shift_x, shift_y = rng.integers(-6, 7, 2).tolist()
    if rng.random() < 0.5:
        transparent = Image.new("L", patch.mask.size)
        blurred = patch.mask.filter(ImageFilter.BoxBlur(4))
        shadow = Image.blend(transparent, blurred, rng.uniform(0.3, 0.7))
        canvas.paste((0, 0, 0), (x + shift_x, y + shift_y), shadow)
    canvas.paste(patch.picture, corner, patch.mask)


def _draw_patch_size(rng, side):
    stretch = np.exp(rng.uniform(-0.6, 0.6))
    return max(int(side * stretch), 8), max(int(side / stretch), 8)


def _draw_scribble(rng, canvas):
    """Draws one thin random walk."""
    steps = rng.normal(0, rng.uniform(8, 40), (int(rng.integers(2, 14)), 2))
    path = rng.random(2) * canvas.size + np.cumsum(steps, axis=0)
    ImageDraw.Draw(canvas).line(
        [(float(x), float(y)) for x, y in path],
        fill=tuple(rng.integers(0, 256, 3).tolist()),
        width=int(rng.integers(1, 4)),
        joint="curve",
    )


def _polygon(rng, size):
    """Polygon of three to seven corners, convex or not."""
    corners = int(rng.integers(3, 8))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    return _fill_polygon(size, angles, rng.uniform(0.6, 1, corners))


def _star(rng, size):
    """Star of four to eleven points."""
    points = int(rng.integers(4, 12))
    angles = np.linspace(0, 2 * np.pi, 2 * points, endpoint=False) + rng.uniform(0, 1)
    return _fill_polygon(size, angles, np.tile([1, rng.uniform(0.35, 0.8)], points))


def _fill_polygon(size, angles, radii):
    width, height = size
    xs = (0.5 + 0.5 * radii * np.cos(angles)) * (width - 1)
    ys = (0.5 + 0.5 * radii * np.sin(angles)) * (height - 1)
    mask = Image.new("L", size)
    outline = [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    return mask


def _ellipse(rng, size):
    """Ellipse, or in three of ten cases a ring."""
    width, height = size
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    draw.ellipse((0, 0, width - 1, height - 1), fill=255)
    if rng.random() < 0.3:
        x, y = (rng.uniform(0.1, 0.35) * np.array(size)).tolist()
        draw.ellipse((x, y, width - 1 - x, height - 1 - y), fill=0)
    return mask


def _bar(rng, size):
    """Rotated rectangle, thin or thick."""
    width, height = size
    mask = Image.new("L", size)
    margin_x, margin_y = (rng.uniform(0, 0.42, 2) * size).tolist()
    ImageDraw.Draw(mask).rounded_rectangle(
        (margin_x, margin_y, width - 1 - margin_x, height - 1 - margin_y),
        radius=float(rng.uniform(0, 0.1) * min(size)),
        fill=255,
    )
    return mask.rotate(rng.uniform(-90, 90))


def _blob(rng, size):
    """Regions of high smooth noise, away from the border of the box."""
    width, height = size
    noise = smooth_noise(rng, size, cell=max(size) / rng.uniform(2, 5))
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)
    hill = 1 - x[None, :] ** 2 - y[:, None] ** 2
    inside = (noise - 0.5 + hill > 0.25) & (hill > 0)
    return Image.fromarray((inside * 255).astype(np.uint8))


_SHAPES = (_polygon, _polygon, _star, _ellipse, _ellipse, _bar, _bar, _blob)
