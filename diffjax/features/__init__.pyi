from ._catalogue import KNOWN_WEIGHTS as KNOWN_WEIGHTS
from ._catalogue import KnownWeights as KnownWeights
from ._catalogue import fetch_weights as fetch_weights
from ._checkpoint import read_checkpoint as read_checkpoint
from ._efficientnet import EfficientNetLite0 as EfficientNetLite0
from ._extraction import Describe as Describe
from ._extraction import Described as Described
from ._extraction import PictureBatch as PictureBatch
from ._extraction import RegionBatch as RegionBatch
from ._extraction import Regions as Regions
from ._extraction import describe_pictures as describe_pictures
from ._kept import Kept as Kept
from ._kept import KeptNetwork as KeptNetwork
from ._kept import keep_network as keep_network
from ._layers import ConvolutionLayer as ConvolutionLayer
from ._layers import FoldedConvolution as FoldedConvolution
from ._layers import fold_batch_norm as fold_batch_norm
from ._loading import load_network as load_network
from ._loading import network_names as network_names
from ._network import Network as Network
from ._network import PixelScaling as PixelScaling
from ._network import forward as forward
from ._pretrained import Pretrained as Pretrained
from ._reading import Unreadable as Unreadable
from ._resnet import ResNet as ResNet
from ._resnet import resnet50 as resnet50
from ._resnet import resnet101 as resnet101
from ._sift import sift_descriptors as sift_descriptors
from ._state_dict import Checkpoint as Checkpoint
from ._vgg import VGG16 as VGG16
from ._weights import (
    efficientnet_lite0_fingerprint as efficientnet_lite0_fingerprint,
)
from ._weights import efficientnet_lite0_path as efficientnet_lite0_path
from ._weights import load_efficientnet_lite0 as load_efficientnet_lite0
