"""Composed scene pictures: objects of photographs pasted into clutter."""

import collections
import dataclasses
import importlib.util
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from ._clutter import draw_clutter_picture, draw_patch, paste_patch

# Few sizes, about equal in area: extraction compiles once per shape.
_CANVAS_SIZES = ((400, 300), (300, 400), (350, 350))
_EDGE_PADDING = 4
# A smaller thin object would be little more than its soft outline.
_MIN_OBJECT_AREA = 0.005


class PhotoObject(NamedTuple):
    """Object in a photograph.

    Attributes:
        name: Name of the object.
        photograph: File in scikit-image's data folder.
        box: x0, y0, x1, y1 in pixels of the photograph, end excluded.
        round: Whether the object is the ellipse inscribed in the box, not the box.
    """

    name: str
    photograph: str
    box: tuple[int, int, int, int]
    round: bool = False


class ObjectPicture(NamedTuple):
    """Picture of one object.

    Attributes:
        name: Name of the object.
        picture: Pixels, RGB.
        mask: 255 inside the object, 0 outside; mode L.
    """

    name: str
    picture: Image.Image
    mask: Image.Image


OBJECTS = (
    PhotoObject("flag", "astronaut.png", (0, 0, 92, 190)),
    PhotoObject("cat's eye", "chelsea.png", (125, 72, 222, 155), round=True),
    PhotoObject("cup of coffee", "coffee.png", (168, 14, 412, 212)),
    PhotoObject("engine", "motorcycle_left.png", (330, 256, 482, 386)),
    PhotoObject("rocket", "rocket.jpg", (288, 118, 356, 318)),
    PhotoObject("optic disc", "retina.jpg", (80, 500, 370, 790)),
    PhotoObject("gland", "ihc.png", (248, 298, 388, 512)),
    PhotoObject("lizard sign", "logo.png", (10, 8, 492, 492), round=True),
    PhotoObject("coin with figures", "coins.png", (303, 12, 367, 74), round=True),
    PhotoObject("photographer", "camera.png", (150, 56, 258, 206)),
    PhotoObject("face", "astronaut.png", (148, 10, 306, 182)),
    PhotoObject("cat's nose", "chelsea.png", (205, 190, 310, 292)),
    PhotoObject("spoon", "coffee.png", (314, 226, 412, 330), round=True),
    PhotoObject("front wheel", "motorcycle_left.png", (505, 266, 690, 454)),
    PhotoObject("lamps", "rocket.jpg", (126, 344, 222, 427)),
    PhotoObject("galaxies", "hubble_deep_field.jpg", (262, 48, 430, 150)),
    PhotoObject("duct", "ihc.png", (272, 0, 462, 205)),
    PhotoObject("colour wheel", "color.png", (0, 0, 371, 370), round=True),
    PhotoObject("shelf", "motorcycle_left.png", (365, 44, 490, 100)),
    PhotoObject("tripod", "camera.png", (225, 308, 405, 506)),
    PhotoObject("collar", "astronaut.png", (112, 184, 308, 298)),
    PhotoObject("gravel", "gravel.png", (140, 140, 390, 390)),
    PhotoObject("handle", "coffee.png", (190, 226, 264, 314)),
    PhotoObject("rear wheel", "motorcycle_left.png", (118, 242, 272, 402), round=True),
    PhotoObject("launch pad", "rocket.jpg", (264, 330, 386, 427)),
    PhotoObject("child's bicycle", "motorcycle_left.png", (0, 112, 54, 236)),
    PhotoObject("camcorder", "camera.png", (260, 132, 336, 246)),
    PhotoObject("page", "page.png", (0, 0, 384, 191)),
    PhotoObject("mission patch", "astronaut.png", (132, 347, 210, 425), round=True),
    PhotoObject("tank", "motorcycle_left.png", (346, 156, 486, 250)),
    PhotoObject("shuttle", "astronaut.png", (350, 0, 466, 290)),
    PhotoObject("headlight", "motorcycle_left.png", (488, 112, 592, 196)),
    PhotoObject("formula", "text.png", (0, 0, 448, 172)),
    PhotoObject("horse", "horse.png", (6, 4, 394, 324)),
    PhotoObject("helmet", "astronaut.png", (276, 340, 510, 512)),
    PhotoObject("cardboard boxes", "motorcycle_left.png", (528, 26, 708, 104)),
    PhotoObject("bricks", "brick.png", (150, 150, 380, 380)),
    PhotoObject("phantom", "phantom.png", (58, 12, 342, 386), round=True),
    PhotoObject("garden bench", "motorcycle_left.png", (56, 102, 142, 190)),
    PhotoObject("skyline", "camera.png", (340, 108, 500, 240)),
)


def cut_objects(count: int) -> tuple[ObjectPicture, ...]:
    """Cuts the first objects out of their photographs.

    Args:
        count: Number of objects, 1 to `len(OBJECTS)`.

    Returns:
        Picture and mask of each object, in the order of `OBJECTS`.

    Raises:
        ValueError: If there are not that many objects.
        FileNotFoundError: If scikit-image or one of its photographs is not installed.
    """
    if not 1 <= count <= len(OBJECTS):
        raise ValueError(f"objects must be in 1..{len(OBJECTS)}, got {count}.")
    by_photograph = collections.defaultdict(list)
    for number, photo_object in enumerate(OBJECTS[:count]):
        by_photograph[photo_object.photograph].append(number)
    cutouts = {}
    for name, numbers in by_photograph.items():
        photograph = _read_photograph(name)
        for number in numbers:
            cutouts[number] = _cut_object(photograph, OBJECTS[number])
    return tuple(cutouts[number] for number in range(count))


def _read_photograph(name: str) -> Image.Image:
    """Reads a photograph as RGB, with white for transparent pixels."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "scikit-image, whose photographs the scenes are made of, is not installed; "
            "run: pip install 'diffjax[demo]'"
        )
    path = pathlib.Path(spec.submodule_search_locations[0]) / "data" / name
    with Image.open(path) as picture:
        rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _cut_object(photograph: Image.Image, photo_object: PhotoObject) -> ObjectPicture:
    picture = photograph.crop(photo_object.box)
    mask = Image.new("L", picture.size, 0 if photo_object.round else 255)
    if photo_object.round:
        width, height = mask.size
        ImageDraw.Draw(mask).ellipse((0, 0, width - 1, height - 1), fill=255)
    return ObjectPicture(name=photo_object.name, picture=picture, mask=mask)


@dataclasses.dataclass(frozen=True)
class ScenesConfig:
    """Settings of a collection of composed scenes: its size and difficulty.

    Attributes:
        objects: Number of objects.
        scenes_per_object: Database pictures of each object.
        empty_scenes: Database pictures of clutter alone.
        queries_per_object: Query pictures of each object, not in the database.
        seed: Random seed, at least 0.
        object_side: Smallest and largest length of an object's longer side, relative to
            the picture's shorter one; at most 0.7, so that it fits when rotated. Unused
            if `object_area` is set.
        object_area: Smallest and largest area of an object's box, relative to the
            picture's, from 0.005 to 1; log-uniform between them, measured after
            rotation and before covering. An object too long for the picture at its area
            is as large as fits. None draws sides instead.
        max_rotation: Largest rotation of objects in degrees, in both directions.
        relight: Strength of random gain, gamma and colour cast, in [0, 1); at 0.3
            gain and gamma vary by a factor of 1.3, the colours by half as much.
        cover_probability: Probability that clutter covers a part of the object.
        patches: Number of shapes of clutter in each picture.
        quality: JPEG quality, 1 to 95.
    """

    objects: int = 40
    scenes_per_object: int = 12
    empty_scenes: int = 200
    queries_per_object: int = 2
    seed: int = 0
    object_side: tuple[float, float] = (0.2, 0.7)
    max_rotation: float = 25.0
    relight: float = 0.3
    cover_probability: float = 0.4
    patches: int = 30
    quality: int = 90
    object_area: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: If a field is out of range.
        """
        limits = {
            "objects": (1, len(OBJECTS)),
            "scenes_per_object": (1, None),
            "empty_scenes": (0, None),
            "queries_per_object": (1, None),
            "seed": (0, None),
            "max_rotation": (0, 180),
            "relight": (0, 0.99),
            "cover_probability": (0, 1),
            "patches": (0, None),
            "quality": (1, 95),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not (low <= value and (high is None or value <= high)):
                rule = f"at least {low}" if high is None else f"in [{low}, {high}]"
                raise ValueError(f"{name} must be {rule}, got {value}.")
        low, high = self.object_side
        if not 0 < low <= high <= 0.7:
            raise ValueError(
                "object_side must be two fractions 0 < smallest <= largest <= 0.7, "
                f"got {self.object_side}."
            )
        low, high = self.object_area or (_MIN_OBJECT_AREA, 1)
        if not _MIN_OBJECT_AREA <= low <= high <= 1:
            raise ValueError(
                f"object_area must be two fractions {_MIN_OBJECT_AREA} <= smallest <= "
                f"largest <= 1, got {self.object_area}."
            )


class ComposedPicture(NamedTuple):
    """Scene before it is written.

    Attributes:
        picture: Pixels, RGB.
        box: x0, y0, x1, y1 in pixels, end excluded, around the visible part of the
            object; None without an object.
    """

    picture: Image.Image
    box: tuple[int, int, int, int] | None


def compose_picture(
    key: tuple[int, ...], cutout: ObjectPicture | None, *, config: ScenesConfig
) -> ComposedPicture:
    """Composes one picture, as a function of its key alone.

    Args:
        key: Seed of all randomness of this picture.
        cutout: The object; None for clutter alone. The clutter is the same with and
            without it.
        config: Size, rotation, relighting and covering of the object.

    Returns:
        The picture and the box of the object.
    """
    rng = np.random.default_rng(key)
    size = _CANVAS_SIZES[rng.integers(len(_CANVAS_SIZES))]
    picture = draw_clutter_picture(rng, size, patches=config.patches)
    if cutout is None:
        return ComposedPicture(picture=picture, box=None)
    alpha = _paste_object(rng, picture, cutout, config=config)
    if rng.random() < config.cover_probability:
        alpha = _cover_object(rng, picture, alpha)
    return ComposedPicture(picture=picture, box=alpha.getbbox())


def _paste_object(rng, canvas, cutout, *, config):
    """Pastes an object in place; returns its opacity on the canvas, mode L."""
    if config.object_area is None:
        side = min(canvas.size) * rng.uniform(*config.object_side)
        rotated = _rotate_object(cutout, side, rng.uniform(-1, 1) * config.max_rotation)
    else:
        share = np.exp(rng.uniform(*np.log(config.object_area)))
        degrees = rng.uniform(-1, 1) * config.max_rotation
        rotated = _rotate_to_area(cutout, share, degrees, canvas_size=canvas.size)
    lit = _relight(rng, rotated.picture, strength=config.relight)
    margin = np.subtract(canvas.size, lit.size)
    x, y = rng.integers(0, np.maximum(margin, 0) + 1).tolist()
    canvas.paste(lit, (x, y), rotated.mask)
    alpha = Image.new("L", canvas.size)
    alpha.paste(rotated.mask, (x, y))
    return alpha


def _rotate_object(cutout, side, degrees):
    """Resizes and rotates an object, with a soft outline.

    Pixels are first repeated beyond the border, so that neither the soft outline nor
    the interpolation reaches the black outside.
    """
    scale = side / max(cutout.picture.size)
    size = tuple(max(round(length * scale), 1) for length in cutout.picture.size)
    resized = cutout.picture.resize(size, Image.Resampling.LANCZOS)
    margin = ((_EDGE_PADDING, _EDGE_PADDING), (_EDGE_PADDING, _EDGE_PADDING))
    pixels = np.pad(np.asarray(resized), (*margin, (0, 0)), mode="edge")
    inside = np.pad(np.asarray(cutout.mask.resize(size)), margin)
    soft = Image.fromarray(inside).filter(ImageFilter.GaussianBlur(0.8))
    picture, mask = (
        layer.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
        for layer in (Image.fromarray(pixels), soft)
    )
    frame = mask.getbbox()
    return cutout._replace(picture=picture.crop(frame), mask=mask.crop(frame))


def _rotate_to_area(cutout, share, degrees, *, canvas_size):
    """Resizes and rotates an object so that its box has a share of the canvas area.

    The soft outline does not scale with the object, so the box is measured and the
    object resized in proportion, twice; then whole pixels limit the precision.
    """
    side = np.sqrt(share * np.prod(canvas_size))
    for _ in range(2):
        box = np.array(_rotate_object(cutout, side, degrees).mask.size)
        scale = np.sqrt(share * np.prod(canvas_size) / np.prod(box))
        side = side * min(scale, *(canvas_size / box))
    return _rotate_object(cutout, side, degrees)


def _relight(rng, picture, *, strength):
    """Applies random gain, gamma and colour cast to all levels."""
    gain, gamma = (1 + strength) ** rng.uniform(-1, 1, 2)
    cast = (1 + strength / 2) ** rng.uniform(-1, 1, 3)
    levels = np.linspace(0, 1, 256) ** gamma * gain
    table = np.clip(np.outer(cast, levels) * 255, 0, 255).astype(np.uint8)
    return picture.point(table.ravel().tolist())


def _cover_object(rng, canvas, alpha):
    """Covers at most 0.6 x 0.6 of an object's box; returns the remaining opacity."""
    x0, y0, x1, y1 = alpha.getbbox()
    share = rng.uniform(0.3, 0.6, 2)
    size = np.maximum(share * [x1 - x0, y1 - y0], 4).astype(int)
    patch = draw_patch(rng, tuple(size.tolist()))
    # Centred in the box, so that up to half of the patch may be outside of it.
    middle = rng.uniform([x0, y0], [x1, y1])
    corner = tuple((middle - size / 2).astype(int).tolist())
    paste_patch(rng, canvas, patch, corner)
    cover = Image.new("L", canvas.size)
    cover.paste(patch.mask, corner)
    return ImageChops.multiply(alpha, ImageChops.invert(cover))
