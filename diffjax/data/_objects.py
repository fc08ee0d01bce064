"""The objects of composed scenes: pieces of the photographs inside scikit-image.

The photographs are files of the installed package, so nothing is downloaded. Boxes
were chosen by eye: each shows one thing that a person would recognise again, no two
show the same thing and none overlaps another.
"""

import collections
import importlib.util
import pathlib
from typing import NamedTuple

from PIL import Image, ImageDraw


class PhotoObject(NamedTuple):
    """Where one object is.

    Attributes:
        name: What it shows.
        photograph: File in scikit-image's data folder.
        box: x0, y0, x1, y1 in pixels of the photograph, end excluded.
        round: Whether the object is the ellipse that the box holds, not all of it.
    """

    name: str
    photograph: str
    box: tuple[int, int, int, int]
    round: bool = False


class ObjectPicture(NamedTuple):
    """One object, cut out.

    Attributes:
        name: What it shows.
        picture: Its pixels, RGB.
        mask: 255 where the object is, 0 elsewhere; mode L.
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
        count: How many, 1 to `len(OBJECTS)`.

    Returns:
        One picture and mask per object, in the order of `OBJECTS`.

    Raises:
        ValueError: If there are not that many objects.
        FileNotFoundError: If scikit-image or one of its photographs is not installed.
    """
    if not 1 <= count <= len(OBJECTS):
        raise ValueError(f"objects must be in 1..{len(OBJECTS)}, got {count}.")
    wanted = collections.defaultdict(list)
    for number, thing in enumerate(OBJECTS[:count]):
        wanted[thing.photograph].append(number)
    cut = {}
    for photograph, numbers in wanted.items():
        picture = _read_photograph(photograph)
        cut |= {number: _cut(picture, OBJECTS[number]) for number in numbers}
    return tuple(cut[number] for number in range(count))


def _read_photograph(name: str) -> Image.Image:
    """Reads one photograph as RGB, transparent parts white."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "scikit-image, whose photographs the scenes are made of, is not installed; "
            "run `pip install scikit-image`."
        )
    path = pathlib.Path(spec.submodule_search_locations[0]) / "data" / name
    with Image.open(path) as picture:
        rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _cut(photograph: Image.Image, thing: PhotoObject) -> ObjectPicture:
    picture = photograph.crop(thing.box)
    mask = Image.new("L", picture.size, 0 if thing.round else 255)
    if thing.round:
        width, height = mask.size
        ImageDraw.Draw(mask).ellipse((0, 0, width - 1, height - 1), fill=255)
    return ObjectPicture(name=thing.name, picture=picture, mask=mask)
