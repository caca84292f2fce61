"""Small real models with their manifests: a detector of what is bright, a classifier of colours."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn

SIDE = 16
COLOURS = ("red", "green", "blue")
DETECTOR_SIZE = (48, 64)


class BrightBox(nn.Module):
    """The box around all pixels brighter than 0.25, of 0 to 1."""

    def forward(self, images: Tensor) -> Tensor:
        bright = images.amax(dim=1) > 0.25
        rows, columns = bright.any(dim=2), bright.any(dim=1)
        y = torch.arange(rows.shape[1], device=images.device).float()
        x = torch.arange(columns.shape[1], device=images.device).float()
        far = torch.full((1,), 1e6, device=images.device)
        box = [
            torch.where(columns, x, far).amin(dim=1),
            torch.where(rows, y, far).amin(dim=1),
            torch.where(columns, x + 1, -far).amax(dim=1),
            torch.where(rows, y + 1, -far).amax(dim=1),
            bright.any(dim=2).any(dim=1).float() * 0.9,
        ]
        return torch.stack(box, dim=1).unsqueeze(1)


class Colour(nn.Module):
    """Logits of the three channels' means, or of as many as `classes`."""

    def __init__(self, classes: int = 3, weight: float = 8.0, wide: int = 0) -> None:
        super().__init__()
        self.out = nn.Linear(3, classes, bias=False)
        with torch.no_grad():
            self.out.weight.copy_(weight * torch.eye(classes, 3))
        self.extra = nn.Parameter(torch.zeros(wide))

    def forward(self, crops: Tensor) -> Tensor:
        logits: Tensor = self.out(crops.mean(dim=(2, 3)))
        return logits + self.extra[:1].sum()


def scripted(model: nn.Module) -> bytes:
    """A TorchScript file."""
    out = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model.eval()), out)  # type: ignore[no-untyped-call]
    return out.getvalue()


def exported(model: nn.Module, size: tuple[int, int], batch: int | None = None, least: int = 1) -> bytes:
    """A torch.export file; for any number of inputs from `least`, or for exactly `batch`."""
    dynamic = {0: torch.export.Dim("batch", min=least, max=512)} if batch is None else None
    program = torch.export.export(
        model.eval(), (torch.zeros(batch or max(2, least), 3, *size),), dynamic_shapes=(dynamic,)
    )
    out = BytesIO()
    torch.export.save(program, out)
    return out.getvalue()


@cache
def model_files() -> dict[str, bytes]:
    """The files that the manifest of `write_pipeline` may name."""
    return {
        "box.pt": scripted(BrightBox()),
        "box.pt2": exported(BrightBox(), DETECTOR_SIZE),
        "colour.pt": scripted(Colour()),
        "colour.pt2": exported(Colour(), (SIDE, SIDE)),
    }


MANIFEST = f"""\
slug = "colours"
name = "Colours"
description = "Finds what is bright."

[detector]
key = "bright_box"
name = "Bright box"
file = "box.pt"
input_size = [{DETECTOR_SIZE[0]}, {DETECTOR_SIZE[1]}]
range = [0, 1]
threshold = 0.5

[[classifier]]
key = "colour"
name = "Colour"
file = "colour.pt"
labels = ["red", "green", "blue"]
input_size = {SIDE}
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
"""


def write_pipeline(
    models: Path,
    folder: str = "colours",
    change: Callable[[str], str] = lambda text: text,
    **files: bytes,
) -> Path:
    """A folder with a manifest and the models that it names. Returns the manifest."""
    directory = models / folder
    directory.mkdir(parents=True)
    manifest = directory / "manifest.toml"
    manifest.write_text(change(MANIFEST), encoding="utf-8")
    for name, data in {**model_files(), **{k.replace("__", "."): v for k, v in files.items()}}.items():
        (directory / name).write_bytes(data)
    return manifest


def sha256(name: str) -> str:
    return hashlib.sha256(model_files()[name]).hexdigest()


def picture(colour: int, box: tuple[int, int, int, int], size: tuple[int, int] = (96, 128)) -> Tensor:
    """A black image (3, *size) with a rectangle (x1, y1, x2, y2) bright in one channel."""
    image = torch.zeros((3, *size), dtype=torch.uint8)
    x1, y1, x2, y2 = box
    image[colour, y1:y2, x1:x2] = 250
    return image
