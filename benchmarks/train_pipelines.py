"""Trains the networks of the built-in pipelines on synthetic trap images and writes their weights.

    nice -n 10 .venv/bin/python benchmarks/train_pipelines.py

One thread, some ten minutes, no accelerator. Four families of background and two kinds of light are left
out of the training (`HELD_OUT_…` in amidiag.soak.traps); `figures.json` beside the weights says what the
shipped networks reach on those, on seeds of their own, and on the families of the training.
Same seed, same machine, same torch: same weights.

Of the families left out, `seams` is the weaker witness: a first training took its crossings for insects, and
the lines of `cluttered` were added for that. `quilted` was made and looked at after the training was settled.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from PIL import Image
from torch import Tensor, nn

from amidiag.soak.traps import (
    BACKGROUNDS,
    HELD_OUT_BACKGROUNDS,
    HELD_OUT_LIGHTS,
    LIGHTS,
    TrapImage,
    load_mix,
    render,
)
from amidiag.soak.traps.score import Score, score
from worker.pipelines import load_pipeline
from worker.pipelines.catalogue import BINARY, DETECTOR, SPECIES
from worker.pipelines.detection import Algorithm
from worker.pipelines.imaging import Box, crop, normalise, reduce
from worker.pipelines.networks import CROP_SIDE, STRIDE, CropNet, DetectorNet
from worker.pipelines.pipeline import WEIGHTS, weights_file

WINDOW = 256  # pixels of a training window
TRAINED_BACKGROUNDS = tuple(name for name in BACKGROUNDS if name not in HELD_OUT_BACKGROUNDS)
TRAINED_LIGHTS = tuple(name for name in LIGHTS if name not in HELD_OUT_LIGHTS)


@dataclass
class Sample:
    """A reduced training image (3, h, w) uint8 with the boxes of its insects, (n, 4) in its pixels."""

    image: Tensor
    boxes: Tensor


@dataclass
class Crops:
    """Jittered crops of the planted insects, (n, 3, 48, 48) uint8, with the species of each."""

    pixels: Tensor
    species: list[str]


def pixels_of(image: TrapImage) -> Tensor:
    """The decoded image, (3, H, W) uint8."""
    with Image.open(io.BytesIO(image.data)) as opened:
        return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)


def prepare(count: int, seed: int) -> tuple[list[Sample], Crops]:
    """Render `count` images of the training's families, reduce them, cut the crops."""
    specs = load_mix(
        seed,
        count,
        broken_share=0,
        backgrounds=TRAINED_BACKGROUNDS,
        lights=TRAINED_LIGHTS,
        insects=(8, 24),
    )
    chance = random.Random(seed)
    samples: list[Sample] = []
    pixels: list[Tensor] = []
    species: list[str] = []
    for number, spec in enumerate(specs):
        # One image in six has few and larger insects than traps are asked for: cameras stand nearer, too.
        trap = render(replace(spec, insects=(2, 8), insect_size=(0.06, 0.16)) if number % 6 == 0 else spec)
        full = pixels_of(trap)
        small = reduce(full).contiguous()
        scale = torch.tensor([small.shape[2] / spec.width, small.shape[1] / spec.height]).repeat(2)
        boxes = torch.tensor([insect.bbox for insect in trap.insects]).reshape(-1, 4) * scale
        samples.append(Sample(small, boxes))
        for insect in trap.insects:
            for _ in range(4):
                pixels.append(crop(full, jitter(insect.bbox, chance), CROP_SIDE).to(torch.uint8))
                species.append(insect.species)
    return samples, Crops(torch.stack(pixels), species)


def jitter(box: Box, chance: random.Random) -> Box:
    """The box as a detector that is a little wrong would give it."""
    w, h = box[2] - box[0], box[3] - box[1]
    dx, dy = chance.uniform(-0.1, 0.1) * w, chance.uniform(-0.1, 0.1) * h
    grow = chance.uniform(-0.08, 0.12) * max(w, h)
    return (box[0] + dx - grow / 2, box[1] + dy - grow / 2, box[2] + dx + grow / 2, box[3] + dy + grow / 2)


def window(sample: Sample, chance: random.Random) -> tuple[Tensor, Tensor]:
    """A square of the image, mostly around some insect, with the boxes that touch it."""
    _, height, width = sample.image.shape
    if len(sample.boxes) and chance.random() < 0.85:
        box = sample.boxes[chance.randrange(len(sample.boxes))].tolist()
        x = round((box[0] + box[2]) / 2 - chance.uniform(0.15, 0.85) * WINDOW)
        y = round((box[1] + box[3]) / 2 - chance.uniform(0.15, 0.85) * WINDOW)
    else:
        x, y = chance.randrange(width), chance.randrange(height)
    x, y = min(max(x, 0), width - WINDOW), min(max(y, 0), height - WINDOW)
    boxes = sample.boxes - torch.tensor([x, y, x, y])
    touching = (boxes[:, 0] < WINDOW) & (boxes[:, 1] < WINDOW) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    boxes = boxes[touching]
    pixels = sample.image[:, y : y + WINDOW, x : x + WINDOW]
    if chance.random() < 0.5:
        pixels, boxes = (
            pixels.flip(2),
            torch.stack([WINDOW - boxes[:, 2], boxes[:, 1], WINDOW - boxes[:, 0], boxes[:, 3]], 1),
        )
    if chance.random() < 0.5:
        pixels, boxes = (
            pixels.flip(1),
            torch.stack([boxes[:, 0], WINDOW - boxes[:, 3], boxes[:, 2], WINDOW - boxes[:, 1]], 1),
        )
    if chance.random() < 0.5:
        pixels, boxes = pixels.transpose(1, 2), boxes[:, [1, 0, 3, 2]]
    return pixels, boxes


@dataclass
class Target:
    """What the maps should be: heat (h, w), values (4, h, w), where values count, where nothing counts."""

    heat: Tensor
    values: Tensor
    centre: Tensor
    ignore: Tensor


def target(boxes: Tensor) -> Target:
    """Gaussians of a sixth of the box around each centre; insects cut by the window's edge are ignored."""
    side = WINDOW // STRIDE
    middle = torch.arange(side) + 0.5
    made = Target(
        torch.zeros(side, side), torch.zeros(4, side, side), torch.zeros(side, side), torch.zeros(side, side)
    )
    for x1, y1, x2, y2 in (boxes / STRIDE).tolist():
        if min(x1, y1) < -0.5 or max(x2, y2) > side + 0.5:
            made.ignore[max(int(y1), 0) : int(y2) + 1, max(int(x1), 0) : int(x2) + 1] = 1
            continue
        cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        sx, sy = max(w / 6, 0.7), max(h / 6, 0.7)
        blob = torch.exp(
            -((middle[None] - cx) ** 2) / (2 * sx**2) - (middle[:, None] - cy) ** 2 / (2 * sy**2)
        )
        made.heat = torch.maximum(made.heat, blob)
        row, column = min(int(cy), side - 1), min(int(cx), side - 1)
        made.heat[row, column] = 1
        around = np.s_[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        made.centre[around] = 1
        values = made.values[(slice(None), *around)]
        values[0] = cx - middle[None, around[1]]
        values[1] = cy - middle[around[0], None]
        values[2] = float(np.log(w * STRIDE / 16))
        values[3] = float(np.log(h * STRIDE / 16))
    return made


def detector_loss(maps: Tensor, targets: Sequence[Target]) -> Tensor:
    """Focal loss of CenterNet on the heat, L1 on offsets and log sizes around the centres."""
    heat = torch.stack([one.heat for one in targets])
    centre = torch.stack([one.centre for one in targets])
    counts = 1 - torch.stack([one.ignore for one in targets])
    values = torch.stack([one.values for one in targets])
    p = torch.sigmoid(maps[:, 0]).clamp(1e-5, 1 - 1e-5)
    peak = (heat == 1).float()
    focal = peak * (1 - p) ** 2 * torch.log(p) + (1 - peak) * (1 - heat) ** 4 * p**2 * torch.log(1 - p)
    away = (nnf.smooth_l1_loss(maps[:, 1:], values, reduction="none", beta=0.1).sum(1) * centre).sum()
    return -(focal * counts).sum() / peak.sum().clamp(min=1) + 2 * away / centre.sum().clamp(min=1)


def cluttered(pixels: Tensor, boxes: Tensor, chance: random.Random) -> Tensor:
    """A window whose sheet has hard-edged blots or crossing lines, darker or paler; insects lie on top.

    They teach the detector that an edge or a crossing alone is no insect.
    """
    kind = chance.random()
    if kind < 0.6:
        return pixels
    if kind < 0.8:
        cells = chance.randint(3, 24)
        rough = nnf.interpolate(torch.rand(1, 1, cells, cells), size=(WINDOW, WINDOW), mode="bicubic")[0]
        clutter = ((rough - chance.uniform(0.55, 0.8)) * chance.uniform(4, 80)).clamp(0, 1)
    else:
        clutter = torch.zeros(1, WINDOW, WINDOW)
        place = torch.arange(WINDOW) - WINDOW / 2
        turn, thick = chance.uniform(0, math.pi), chance.uniform(0.7, 5)
        for number in range(chance.randint(1, 10)):
            along = turn + (number % 2) * chance.choice(
                [math.pi / 2, math.pi / 2, chance.uniform(0, math.pi)]
            )
            away = (
                place[None] * math.cos(along) + place[:, None] * math.sin(along) - chance.uniform(-120, 120)
            )
            clutter = torch.maximum(clutter, (thick - away.abs()).clamp(0, 1)[None])
    for x1, y1, x2, y2 in boxes.round().int().clamp(0, WINDOW).tolist():
        clutter[:, y1:y2, x1:x2] = 0
    return (pixels * (1 + chance.uniform(-0.45, 0.25) * clutter)).clamp(0, 255)


def tinted(batch: Tensor) -> Tensor:
    """Another exposure, contrast, colour cast, gamma and noise for each image of a float batch 0 to 255."""
    n = len(batch)
    unit = (batch / 255).clamp(0.004, 1) ** torch.empty(n, 1, 1, 1).uniform_(0.75, 1.35)
    haze = torch.empty(n, 1, 1, 1).uniform_(-0.7, 0.6).clamp(min=0)
    unit = unit + haze * (torch.rand(n, 1, 1, 1) - unit)
    unit = unit * torch.empty(n, 1, 1, 1).uniform_(0.6, 1.2) * torch.empty(n, 3, 1, 1).uniform_(0.85, 1.15)
    noise = torch.randn_like(unit) * torch.empty(n, 1, 1, 1).uniform_(0, 0.04)
    return ((unit + noise).clamp(0, 1) * 255).round()


def train_detector(samples: list[Sample], steps: int, seed: int) -> DetectorNet:
    chance = random.Random(seed)
    torch.manual_seed(seed)
    network = DetectorNet()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=5e-3, total_steps=steps, pct_start=0.15)
    running = 0.0
    for step in range(steps):
        chosen = [window(samples[chance.randrange(len(samples))], chance) for _ in range(16)]
        batch = tinted(torch.stack([cluttered(pixels.float(), boxes, chance) for pixels, boxes in chosen]))
        loss = detector_loss(network(normalise(batch)), [target(boxes) for _, boxes in chosen])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()
        schedule.step()
        running = 0.98 * running + 0.02 * loss.item() if step else loss.item()
        if step % 100 == 99:
            print(f"detector {step + 1}/{steps} loss {running:.3f}", flush=True)
    return network


def train_classifier(crops: Tensor, labels: Tensor, classes: int, steps: int, seed: int) -> CropNet:
    torch.manual_seed(seed)
    network = CropNet(classes)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps, pct_start=0.15)
    running = 0.0
    for step in range(steps):
        chosen = torch.randint(len(crops), (96,))
        batch = tinted(crops[chosen].float())
        turns = int(torch.randint(4, ()))
        batch = torch.rot90(batch, turns, (2, 3))
        if torch.rand(()) < 0.5:
            batch = batch.flip(3)
        loss = nnf.cross_entropy(network(normalise(batch)), labels[chosen], label_smoothing=0.02)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        running = 0.98 * running + 0.02 * loss.item() if step else loss.item()
        if step % 100 == 99:
            print(f"classifier of {classes} {step + 1}/{steps} loss {running:.3f}", flush=True)
    return network


def save(network: nn.Module, algorithm: Algorithm) -> None:
    """Half precision: half the file, and the same answers (the figures are taken from the saved file)."""
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    WEIGHTS.mkdir(exist_ok=True)
    torch.save(state, weights_file(algorithm))


def evaluate(
    backgrounds: tuple[str, ...], lights: tuple[str, ...], count: int, seed: int
) -> dict[str, object]:
    """Detection and species figures of the saved weights on fresh images."""
    pipeline = load_pipeline("trap_species", device=torch.device("cpu"))
    pairs = []
    species_right = species_of = 0
    for spec in load_mix(seed, count, broken_share=0, backgrounds=backgrounds, lights=lights):
        trap = render(spec)
        found = [detection.to_api("1", "") for detection in pipeline.process([pixels_of(trap)])[0]]
        pairs.append((trap.insects, found))
        for insect in trap.insects:
            if insect.kind == "moth":
                named = [
                    d["classifications"][1]["classification"]
                    for d in found
                    if len(d["classifications"]) == 2 and _near(insect.bbox, d["bbox"])
                ]
                species_of += len(named)
                species_right += sum(name == insect.species for name in named)
    result: Score = score(pairs)
    figures: dict[str, object] = {
        key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(result).items()
    }
    figures["recall_at_iou_0.75"] = round(score(pairs, iou_wanted=0.75).recall or 0.0, 4)
    figures["species_accuracy"] = round(species_right / max(species_of, 1), 4)
    figures["images"] = count
    return figures


def _near(truth: Box, found: dict[str, float]) -> bool:
    x, y = (found["x1"] + found["x2"]) / 2, (found["y1"] + found["y2"]) / 2
    return truth[0] < x < truth[2] and truth[1] < y < truth[3]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=500, help="training images to render")
    parser.add_argument("--steps", type=int, default=1400, help="steps of the detector")
    parser.add_argument("--classifier-steps", type=int, default=700, help="steps of each classifier")
    parser.add_argument("--evaluate", type=int, default=120, help="images per evaluation")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument(
        "--evaluate-only", action="store_true", help="take the figures of the weights there are"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    if not options.evaluate_only:
        samples, crops = prepare(options.images, options.seed)
        print(
            f"{len(samples)} images, {len(crops.species)} crops in {time.monotonic() - start:.0f} s",
            flush=True,
        )
        save(train_detector(samples, options.steps, options.seed), DETECTOR)
        moths = torch.tensor([name in SPECIES.labels for name in crops.species])
        binary = train_classifier(crops.pixels, (~moths).long(), 2, options.classifier_steps, options.seed)
        save(binary, BINARY)
        names = [name for name in crops.species if name in SPECIES.labels]
        labels = torch.tensor([SPECIES.labels.index(name) for name in names])
        save(
            train_classifier(
                crops.pixels[moths], labels, len(SPECIES.labels), options.classifier_steps, options.seed
            ),
            SPECIES,
        )
    trained = round(time.monotonic() - start)
    figures = {
        "seed": options.seed,
        "torch": torch.__version__,
        "training_s": trained,
        "held_out": evaluate(HELD_OUT_BACKGROUNDS, HELD_OUT_LIGHTS, options.evaluate, 900_001),
        "trained_families_fresh_seeds": evaluate(
            TRAINED_BACKGROUNDS, TRAINED_LIGHTS, options.evaluate, 900_002
        ),
        "held_out_backgrounds": HELD_OUT_BACKGROUNDS,
        "held_out_lights": HELD_OUT_LIGHTS,
    }
    text = json.dumps(figures, indent=2)
    Path(WEIGHTS / "figures.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
