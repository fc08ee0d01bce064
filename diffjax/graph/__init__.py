"""Stage `graph`: neighbours, mutual affinity, normalisation, compressed rows."""

from ._affinity import affinity as affinity
from ._affinity import kernel as kernel
from ._compress import compress as compress
from ._neighbors import knn as knn
from ._normalize import normalize as normalize
