"""Stage `ranking`: order of images and the baselines that need no graph."""

from ._baselines import Scorer as Scorer
from ._baselines import nearest_neighbors as nearest_neighbors
from ._baselines import r_match as r_match
from ._order import rank as rank
from ._shortlisted import pad_shortlist as pad_shortlist
from ._shortlisted import scatter_shortlist as scatter_shortlist
