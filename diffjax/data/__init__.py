"""Stage `data`: pictures, benchmarks and composed scenes."""

from diffjax.data._benchmark import Benchmark as Benchmark
from diffjax.data._benchmark import classes_benchmark as classes_benchmark
from diffjax.data._benchmark import scenes_benchmark as scenes_benchmark
from diffjax.data._pictures import Box as Box
from diffjax.data._pictures import PictureError as PictureError
from diffjax.data._pictures import PictureSource as PictureSource
from diffjax.data._pictures import as_picture as as_picture
from diffjax.data._pictures import find_pictures as find_pictures
from diffjax.data._pictures import read_picture as read_picture
from diffjax.data._scenes import Scene as Scene
from diffjax.data._scenes import SceneCollection as SceneCollection
from diffjax.data._scenes import ScenesConfig as ScenesConfig
from diffjax.data._scenes import compose_scenes as compose_scenes
