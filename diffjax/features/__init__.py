"""Stage `features`."""

from diffjax.features._canvas import canvas_for as canvas_for
from diffjax.features._canvas import fit_picture as fit_picture
from diffjax.features._canvas import fitted_sizes as fitted_sizes
from diffjax.features._efficientnet import EfficientNetLite0 as EfficientNetLite0
from diffjax.features._efficientnet import forward as forward
from diffjax.features._extraction import Describe as Describe
from diffjax.features._extraction import Described as Described
from diffjax.features._extraction import RegionBatch as RegionBatch
from diffjax.features._extraction import Unreadable as Unreadable
from diffjax.features._extraction import describe_pictures as describe_pictures
from diffjax.features._weights import (
    efficientnet_lite0_fingerprint as efficientnet_lite0_fingerprint,
)
from diffjax.features._weights import load_efficientnet_lite0 as load_efficientnet_lite0
