"""Stage `graph`: neighbours, mutual affinity, normalisation, compressed rows."""

from ._affinity import affinity as affinity
from ._affinity import kernel as kernel
from ._check import check_graph as check_graph
from ._cluster_search import PROBES as PROBES
from ._cluster_search import cluster_count as cluster_count
from ._cluster_search import search_clusters as search_clusters
from ._clusters import BLOCK_ROWS as BLOCK_ROWS
from ._clusters import Clusters as Clusters
from ._clusters import cluster as cluster
from ._compress import compress as compress
from ._dense import knn_dense as knn_dense
from ._edges import edge_similarities as edge_similarities
from ._insert import insert as insert
from ._neighbors import Method as Method
from ._neighbors import knn as knn
from ._normalize import normalize as normalize
from ._ready import check_neighbors as check_neighbors
from ._recall import recall as recall
from ._released import read_knn_graph as read_knn_graph
from ._shortlist import Shortlist as Shortlist
from ._shortlist import shortlist as shortlist
from ._truncate import padded_rows as padded_rows
from ._truncate import row_width as row_width
from ._truncate import truncate as truncate
