"""Stage `data`: pictures, benchmarks and composed scenes."""

from ._benchmark import Benchmark as Benchmark
from ._benchmark import classes_benchmark as classes_benchmark
from ._benchmark import scenes_benchmark as scenes_benchmark
from ._canvas import canvas_for as canvas_for
from ._canvas import fit_image as fit_image
from ._canvas import fit_picture as fit_picture
from ._canvas import fitted_sizes as fitted_sizes
from ._fitting import Fitted as Fitted
from ._fitting import read_fitted as read_fitted
from ._fitting import start_reader as start_reader
from ._manifolds import ToyManifolds as ToyManifolds
from ._manifolds import toy_manifolds as toy_manifolds
from ._pictures import MIN_BOX as MIN_BOX
from ._pictures import Box as Box
from ._pictures import PictureError as PictureError
from ._pictures import PicturePart as PicturePart
from ._pictures import PictureSource as PictureSource
from ._pictures import as_picture as as_picture
from ._pictures import find_pictures as find_pictures
from ._pictures import load_part as load_part
from ._pictures import read_picture as read_picture
from ._region_file import read_regions as read_regions
from ._scenes import Scene as Scene
from ._scenes import SceneCollection as SceneCollection
from ._scenes import ScenesConfig as ScenesConfig
from ._scenes import compose_scenes as compose_scenes
