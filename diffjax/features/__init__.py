"""Stage `features`."""

from ._efficientnet import EfficientNetLite0 as EfficientNetLite0
from ._efficientnet import forward as forward
from ._extraction import Describe as Describe
from ._extraction import Described as Described
from ._extraction import RegionBatch as RegionBatch
from ._extraction import Unreadable as Unreadable
from ._extraction import describe_pictures as describe_pictures
from ._weights import (
    efficientnet_lite0_fingerprint as efficientnet_lite0_fingerprint,
)
from ._weights import load_efficientnet_lite0 as load_efficientnet_lite0
