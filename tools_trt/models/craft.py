"""CRAFT, EasyOCR's text detector: VGG16 with batch norm and a U-shaped decoder (arXiv 1904.01941).

Two maps at half the input's resolution: that a pixel lies in a character, and that it lies between
two characters of a word. Attributes bear the names of EasyOCR's `craft_mlt_25k.pth`, so that file
loads as it is. Knows nothing of boxes.

Two precisions, both in the graph's own types: float32, and `in_bfloat16`, where the layers that do
nearly all of the work are bfloat16 and those whose rounding shows in the maps stay float32: the
first convolution, which sees the picture, and what follows at a quarter and half of its size.

Shapes: B = pictures, H, W = input, multiples of 32; h, w = half of them.
"""

from __future__ import annotations

import copy
import itertools
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

STRIDE = 32
"""Inputs are padded to multiples of this."""
MAP_STRIDE = 2
"""Input pixels per pixel of the maps."""
POOL = 0
"""Stands for a pooling layer among VGG's widths."""
VGG16_WIDTHS = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512)
STAGES = ((0, 12), (12, 19), (19, 29), (29, 39))
"""Which of VGG's layers each stage takes."""
FIRST = 3
"""Layers of the first stage that see the picture itself: convolution, batch norm, ReLU."""


class Craft(nn.Module):
    """The graph.

    Example:
        (scores_B2hw,) = Craft()(pixels_B3HW)  # [:, 0] characters, [:, 1] links
    """

    def __init__(self) -> None:
        super().__init__()
        self.basenet = Backbone()
        self.upconv1 = Merge(1024 + 512, 512, 256)
        self.upconv2 = Merge(512 + 256, 256, 128)
        self.upconv3 = Merge(256 + 128, 128, 64)
        self.upconv4 = Merge(128 + 64, 64, 32)
        self.conv_cls = nn.Sequential(
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 16, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 16, 1), nn.ReLU()),
            nn.Conv2d(16, 2, 1),
        )

    def forward(self, pixels_B3HW: Tensor) -> tuple[Tensor]:
        half, quarter, eighth, sixteenth, deepest = self.basenet(pixels_B3HW)
        features = self.upconv1(deepest, sixteenth)
        features = self.upconv2(_enlarge(features, eighth), eighth)
        features, quarter, half = (self.upconv3.cast(skip) for skip in (features, quarter, half))
        features = self.upconv3(_enlarge(features, quarter), quarter)
        features = self.upconv4(_enlarge(features, half), half)
        return (self.conv_cls(features),)

    def in_bfloat16(self) -> Craft:
        """A copy in mixed precision, its batch norms folded into the convolutions before."""
        mixed = copy.deepcopy(self).eval()
        for module in mixed.modules():
            if isinstance(module, nn.Sequential):
                _fold_batch_norms(module)
        backbone = mixed.basenet
        stages = (backbone.slice1[FIRST:], backbone.slice2, backbone.slice3, backbone.slice4)
        for layers in (*stages, backbone.slice5, mixed.upconv1, mixed.upconv2):
            layers.bfloat16()
        return mixed


class Backbone(nn.Module):
    """VGG16 without its head, then a dilated convolution. Returns the features of five stages.

    A stage ends with a batch norm and the next one starts with the ReLU, which worked in place
    while the weights were trained: the decoder reads what the ReLU left. After the fourth stage
    comes a pooling layer instead, so that its features stay as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        layers = _vgg16_layers()
        stages = [_numbered(layers, start, end) for start, end in STAGES]
        self.slice1, self.slice2, self.slice3, self.slice4 = stages
        self.slice5 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
            nn.Conv2d(1024, 1024, 1),
        )

    def forward(self, pixels_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        first = self.slice1[:FIRST](pixels_B3HW)
        half = functional.relu(self.slice1[FIRST:](first.to(self.slice1[FIRST].weight.dtype)))
        quarter = functional.relu(self.slice2(half))
        eighth = functional.relu(self.slice3(quarter))
        sixteenth = self.slice4(eighth)
        return half, quarter, eighth, sixteenth, self.slice5(sixteenth)


class Merge(nn.Module):
    """Joins two features of one resolution by two convolutions."""

    def __init__(self, width_in: int, width_between: int, width_out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width_in, width_between, 1),
            *(nn.BatchNorm2d(width_between), nn.ReLU()),
            nn.Conv2d(width_between, width_out, 3, padding=1),
            *(nn.BatchNorm2d(width_out), nn.ReLU()),
        )

    def forward(self, deep_BCHW: Tensor, skip_BCHW: Tensor) -> Tensor:
        return self.conv(torch.cat([deep_BCHW, skip_BCHW], dim=1))

    def cast(self, features_BCHW: Tensor) -> Tensor:
        """To the type this module computes in."""
        return features_BCHW.to(cast(nn.Conv2d, self.conv[0]).weight.dtype)


def _enlarge(features_BCHW: Tensor, like_BCHW: Tensor) -> Tensor:
    return functional.interpolate(features_BCHW, size=like_BCHW.shape[2:], mode="bilinear")


def _vgg16_layers() -> list[nn.Module]:
    layers: list[nn.Module] = []
    width_in = 3
    for width in VGG16_WIDTHS:
        if width == POOL:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        width_in = width
    return layers


def _numbered(layers: list[nn.Module], start: int, end: int) -> nn.Sequential:
    """A stage whose layers keep their number in the whole network, on which the file's names rest.

    A second ReLU changes nothing: those that open a stage stay where they are.
    """
    stage = nn.Sequential()
    for number in range(start, end):
        stage.add_module(str(number), layers[number])
    return stage


def _fold_batch_norms(layers: nn.Sequential) -> None:
    """In place; the batch norms become identities."""
    named = list(layers.named_children())
    for (name, layer), (next_name, following) in itertools.pairwise(named):
        if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
            setattr(layers, name, fuse_conv_bn_eval(layer, following))
            setattr(layers, next_name, nn.Identity())
