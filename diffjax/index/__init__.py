"""The way in: an index of vectors or of a folder of pictures."""

from ._benchmark import BenchmarkRun as BenchmarkRun
from ._benchmark import run_benchmark as run_benchmark
from ._compare import CompareConfig as CompareConfig
from ._compare import Scored as Scored
from ._compare import compare as compare
from ._compare import score_methods as score_methods
from ._config import FolderConfig as FolderConfig
from ._config import IndexConfig as IndexConfig
from ._describer import Describer as Describer
from ._descriptor import DescriptorConfig as DescriptorConfig
from ._extracted import PictureRegions as PictureRegions
from ._folder import index_folder as index_folder
from ._index import Index as Index
from ._pictures import PictureInfo as PictureInfo
from ._presets import PRESETS as PRESETS
from ._presets import Preset as Preset
from ._queries import QueryRegions as QueryRegions
from ._region_folder import FolderRegions as FolderRegions
from ._region_folder import Regions as Regions
from ._region_folder import extract_folder as extract_folder
from ._region_folder import read_folder_regions as read_folder_regions
from ._storage import IndexFileError as IndexFileError
from ._storage import describe_file as describe_file
from ._storage import verify as verify
