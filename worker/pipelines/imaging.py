"""From the uint8 image as it arrives to what the networks take: channels, reduction, crops."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

Box = tuple[float, float, float, float]

SHORT_SIDE = 768  # pixels: an insect of 1.5 % of the short side is then still 11 pixels long
LONG_SIDE = 2048
CONTEXT = 1.25  # side of a crop over the longer side of the box


def to_rgb(image: Tensor) -> Tensor:
    """A uint8 image (1|2|3|4, H, W) as (3, H, W): grey is repeated, alpha is dropped.

    Raises:
        ValueError: another dtype, number of dimensions or of channels, or no pixel.
    """
    if (
        image.dtype != torch.uint8
        or image.dim() != 3
        or image.shape[0] not in (1, 2, 3, 4)
        or image.numel() == 0
    ):
        raise ValueError(f"not a uint8 image (1..4, H, W): {image.dtype} {tuple(image.shape)}")
    if image.shape[0] <= 2:
        return image[:1].expand(3, -1, -1)
    return image[:3]


def reduced_size(height: int, width: int) -> tuple[int, int]:
    """The size at which the detector looks at an image: never larger than the image, aspect kept."""
    scale = min(1.0, SHORT_SIDE / min(height, width), LONG_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def reduce(image: Tensor) -> Tensor:
    """`image` (3, H, W) uint8 at `reduced_size`, antialiased.

    On the CPU this stays uint8: 12 megapixels take 40 ms, where an area average over floats takes
    95 and 150 MB. On an accelerator, which has no such kernel for uint8, it is float of the same range.
    """
    size = reduced_size(int(image.shape[1]), int(image.shape[2]))
    image = image if image.device.type == "cpu" else image.float()
    if size == tuple(image.shape[1:]):
        return image
    return nnf.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]


def normalise(batch: Tensor) -> Tensor:
    """uint8 or float 0 to 255 to float −1 to 1, channels last (the faster layout on CPU and GPU)."""
    return (batch.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def crop(image: Tensor, box: Box, side: int) -> Tensor:
    """The square around `box` with `CONTEXT`, resized to (3, side, side), float 0 to 255.

    `image` is (3, H, W) uint8; any box is allowed: beyond the image its
    edge is repeated, and at least one pixel is taken.
    """
    height, width = int(image.shape[1]), int(image.shape[2])
    half = max(box[2] - box[0], box[3] - box[1], 1.0) * CONTEXT / 2
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    left, top = round(cx - half), round(cy - half)
    span = max(1, round(2 * half))
    x1, y1 = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    x2, y2 = min(max(left + span, x1 + 1), width), min(max(top + span, y1 + 1), height)
    part = image[None, :, y1:y2, x1:x2].float()
    missing = (max(x1 - left, 0), max(left + span - x2, 0), max(y1 - top, 0), max(top + span - y2, 0))
    if any(missing):
        part = nnf.pad(part, missing, mode="replicate")
    return nnf.interpolate(part, size=(side, side), mode="bilinear", antialias=True, align_corners=False)[0]
