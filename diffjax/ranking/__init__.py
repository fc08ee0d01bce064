"""Stage `ranking`: order of images, and the methods that need no diffusion."""

from ._augmentation import database_augmentation as database_augmentation
from ._baselines import Scorer as Scorer
from ._baselines import nearest_neighbors as nearest_neighbors
from ._baselines import r_match as r_match
from ._expansion import alpha_query_expansion as alpha_query_expansion
from ._expansion import average_query_expansion as average_query_expansion
from ._hamming import HammingIndex as HammingIndex
from ._hamming_config import HammingConfig as HammingConfig
from ._hamming_expansion import hamming_query_expansion as hamming_query_expansion
from ._hello import hello_neighbor as hello_neighbor
from ._match_expansion import r_match_expansion as r_match_expansion
from ._order import rank as rank
from ._reciprocal import k_reciprocal as k_reciprocal
from ._scsm import scsm_reranking as scsm_reranking
from ._shortlisted import pad_shortlist as pad_shortlist
from ._shortlisted import scatter_shortlist as scatter_shortlist
