"""Clutter: pictures full of things that are none of the objects.

A cluttered picture is a textured ground under several dozen textured patches (shapes
with a soft shadow) and a few scribbles. No photograph is used, and nothing is drawn
twice: what repeated across pictures would be found by a search as if it were an object.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ._textures import smooth_noise, texture


class Patch(NamedTuple):
    """A shape to paste.

    Attributes:
        picture: Its pixels, RGB.
        mask: How opaque each is, mode L; soft at the outline.
    """

    picture: Image.Image
    mask: Image.Image


def draw_clutter(
    rng: np.random.Generator, size: tuple[int, int], *, patches: int = 30
) -> Image.Image:
    """Draws a picture of clutter alone.

    Args:
        rng: Where all randomness comes from; advanced.
        size: Width and height in pixels.
        patches: How many shapes, the largest first.

    Returns:
        An RGB picture.
    """
    width, height = size
    # A regular ground would fill the picture, and make it the twin of every other
    # picture with a ground of that kind.
    canvas = texture(rng, size, regular=False)
    sides = max(size) * np.exp(rng.uniform(np.log(0.06), np.log(0.6), patches))
    for side in sorted(sides, reverse=True):
        shape = draw_patch(rng, _patch_size(rng, side))
        x = int(rng.uniform(0, width) - shape.mask.width / 2)
        y = int(rng.uniform(0, height) - shape.mask.height / 2)
        paste_patch(rng, canvas, shape, (x, y))
    for _ in range(rng.integers(2, 8)):
        _scribble(rng, canvas)
    return canvas


def draw_patch(rng: np.random.Generator, size: tuple[int, int]) -> Patch:
    """Draws one shape of clutter.

    Args:
        rng: Where all randomness comes from; advanced.
        size: Width and height of the box that it fills, in pixels.

    Returns:
        Texture and outline: a polygon, star, ellipse, ring, bar or blob.
    """
    mask = _SHAPES[rng.integers(len(_SHAPES))](rng, size)
    return Patch(texture(rng, size), mask.filter(ImageFilter.BoxBlur(0.7)))


def paste_patch(
    rng: np.random.Generator,
    canvas: Image.Image,
    patch: Patch,
    corner: tuple[int, int],
) -> None:
    """Pastes a patch in place, half of the time over a soft shadow.

    Args:
        rng: Where all randomness comes from; advanced.
        canvas: RGB picture to paste into; changed.
        patch: What to paste.
        corner: Where its left upper corner goes; may lie outside the canvas.
    """
    x, y = corner
    right, down = rng.integers(-6, 7, 2).tolist()
    if rng.random() < 0.5:
        nothing = Image.new("L", patch.mask.size)
        soft = patch.mask.filter(ImageFilter.BoxBlur(4))
        shadow = Image.blend(nothing, soft, rng.uniform(0.3, 0.7))
        canvas.paste((0, 0, 0), (x + right, y + down), shadow)
    canvas.paste(patch.picture, corner, patch.mask)


def _patch_size(rng, side):
    stretch = np.exp(rng.uniform(-0.6, 0.6))
    return max(int(side * stretch), 8), max(int(side / stretch), 8)


def _scribble(rng, canvas):
    """Draws one thin wandering line."""
    steps = rng.normal(0, rng.uniform(8, 40), (int(rng.integers(2, 14)), 2))
    path = rng.random(2) * canvas.size + np.cumsum(steps, axis=0)
    ImageDraw.Draw(canvas).line(
        [(float(x), float(y)) for x, y in path],
        fill=tuple(rng.integers(0, 256, 3).tolist()),
        width=int(rng.integers(1, 4)),
        joint="curve",
    )


def _polygon(rng, size):
    """A convex or bent polygon of three to seven corners."""
    corners = int(rng.integers(3, 8))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    return _fill(size, angles, rng.uniform(0.6, 1, corners))


def _star(rng, size):
    """Corners in and out by turns."""
    points = int(rng.integers(4, 12))
    angles = np.linspace(0, 2 * np.pi, 2 * points, endpoint=False) + rng.uniform(0, 1)
    return _fill(size, angles, np.tile([1, rng.uniform(0.35, 0.8)], points))


def _fill(size, angles, radii):
    width, height = size
    xs = (0.5 + 0.5 * radii * np.cos(angles)) * (width - 1)
    ys = (0.5 + 0.5 * radii * np.sin(angles)) * (height - 1)
    mask = Image.new("L", size)
    outline = [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    return mask


def _ellipse(rng, size):
    """A full ellipse, or a ring three times out of ten."""
    width, height = size
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    draw.ellipse((0, 0, width - 1, height - 1), fill=255)
    if rng.random() < 0.3:
        x, y = (rng.uniform(0.1, 0.35) * np.array(size)).tolist()
        draw.ellipse((x, y, width - 1 - x, height - 1 - y), fill=0)
    return mask


def _bar(rng, size):
    """A turned rectangle, thin or thick."""
    width, height = size
    mask = Image.new("L", size)
    cut_x, cut_y = (rng.uniform(0, 0.42, 2) * size).tolist()
    ImageDraw.Draw(mask).rounded_rectangle(
        (cut_x, cut_y, width - 1 - cut_x, height - 1 - cut_y),
        radius=float(rng.uniform(0, 0.1) * min(size)),
        fill=255,
    )
    return mask.rotate(rng.uniform(-90, 90))


def _blob(rng, size):
    """Islands where smooth noise is high, kept away from the border of the box."""
    width, height = size
    noise = smooth_noise(rng, size, cell=max(size) / rng.uniform(2, 5))
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)
    hill = 1 - x[None, :] ** 2 - y[:, None] ** 2
    inside = (noise - 0.5 + hill > 0.25) & (hill > 0)
    return Image.fromarray((inside * 255).astype(np.uint8))


_SHAPES = (_polygon, _polygon, _star, _ellipse, _ellipse, _bar, _bar, _blob)
