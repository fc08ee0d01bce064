"""A small collection of real pictures, and the program run on it."""

import os
import pathlib
import signal
import subprocess
import sys

import skimage
from PIL import Image

from diffjax.images import DescriptorConfig
from diffjax.index import IndexConfig

SIDE = 128
# Square pictures of one side are all one canvas: the network is compiled once.
DESCRIPTOR = DescriptorConfig(side=SIDE)
SMALL = IndexConfig.of(dim=16, k=20, query_k=20)
# The same for the command line.
SMALL_FLAGS = ("--side", f"{SIDE}", "--dim", "16", "--k", "20", "--query-k", "20")

_DATA = pathlib.Path(skimage.__file__).parent / "data"
_CORNERS = ((0.0, 0.0), (0.5, 0.0), (0.3, 0.4))
_PIXELS = 160


def write_photographs(folder: pathlib.Path) -> None:
    """Writes twelve square pictures: three places in each of four photographs."""
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"):
        inside = folder / pathlib.Path(name).stem
        inside.mkdir(parents=True)
        with Image.open(_DATA / name) as photograph:
            picture = photograph.convert("RGB")
        width, height = picture.size
        for number, (x, y) in enumerate(_CORNERS):
            left, top = int(x * (width - _PIXELS)), int(y * (height - _PIXELS))
            square = picture.crop((left, top, left + _PIXELS, top + _PIXELS))
            square.save(inside / f"{number}.png")


class Program:
    """Starts the program `diffjax` as a process of its own."""

    def __init__(self, cache: pathlib.Path) -> None:
        self.environment = os.environ | {"DIFFJAX_CACHE": str(cache)}

    def start(self, *arguments: object, first: str = "") -> subprocess.Popen[str]:
        """Starts a command; `first` is Python that runs before it."""
        code = (
            # Left to the parent, Ctrl-C might be ignored.
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"{first}\nfrom diffjax.cli import main; main()"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def run(self, *arguments: object, first: str = "") -> "Ended":
        """Runs a command to its end."""
        return Ended(self.start(*arguments, first=first))


class Ended:
    """A process that has come to its end, and what it said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.out, self.err = process.communicate()
        self.code = process.returncode

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL
