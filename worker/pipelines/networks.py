"""The two small convolutional networks: one finds insects in an image, the other names a crop."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Module = TypeVar("Module", bound=nn.Module)

STRIDE = 4  # pixels of the reduced image per cell of the detector's map
CROP_SIDE = 48  # pixels


class Block(nn.Sequential):
    """Convolution 3×3, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class DetectorNet(nn.Module):
    """Centres and sizes of insects (after CenterNet, arXiv:1904.07850), 143 thousand parameters.

    Input (N, 3, H, W) float −1 to 1. Output (N, 5, ⌈H/4⌉, ⌈W/4⌉): logit of "a centre is in this
    cell"; its offset from the cell's middle in cells (x, y); log of width and height over 16 pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c = 16, 32, 48
        self.down2 = Block(3, a, 2)
        self.down4 = nn.Sequential(Block(a, b, 2), Block(b, b))
        self.down8 = nn.Sequential(Block(b, c, 2), Block(c, c))
        self.down16 = nn.Sequential(Block(c, c, 2), Block(c, c, dilation=2), Block(c, c, dilation=4))
        self.up8 = Block(c, c)
        self.across = nn.Conv2d(c, b, 1)
        self.up4 = Block(b, b)
        self.head = nn.Conv2d(b, 5, 1)
        # Start with "no centre anywhere", as nearly every cell is empty.
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor([-4.0, 0.0, 0.0, 0.0, 0.0]))  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> Tensor:
        quarter = self.down4(self.down2(images))
        eighth = self.down8(quarter)
        wide = self.down16(eighth)
        eighth = self.up8(eighth + nnf.interpolate(wide, size=eighth.shape[-2:]))
        quarter = quarter + nnf.interpolate(self.across(eighth), size=quarter.shape[-2:])
        return self.head(self.up4(quarter))  # type: ignore[no-any-return]


class CropNet(nn.Module):
    """Logits (N, classes) of crops (N, 3, 48, 48), float −1 to 1; 60 thousand parameters."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            Block(3, 16), Block(16, 32, 2), Block(32, 32), Block(32, 48, 2), Block(48, 48)
        )
        self.out = nn.Linear(2 * 48, classes)

    def forward(self, crops: Tensor) -> Tensor:
        features = self.features(crops)
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        return self.out(pooled)  # type: ignore[no-any-return]


def fused(network: Module) -> Module:
    """A copy for inference: evaluation mode, no gradients, batch norm folded into the convolutions."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, Block):
            convolution, norm = module[0], module[1]
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            module[0] = fuse_conv_bn_eval(convolution, norm)
            module[1] = nn.Identity()
    return network
