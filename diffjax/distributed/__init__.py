"""Stage `distributed`: one collection on many devices of many processes."""

from ._connect import connected as connected
from ._connect import is_loss as is_loss
from ._connect import row_mesh as row_mesh
from ._plan import Phase as Phase
from ._plan import Plan as Plan
from ._plan import plan as plan
from ._rows import own_rows as own_rows
from ._rows import real_rows as real_rows
from ._rows import shard_rows as shard_rows
from ._search import Answers as Answers
from ._search import build_graph as build_graph
from ._search import search as search
