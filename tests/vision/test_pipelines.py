"""The pipelines: what they find in images they never saw, and what they make of odd input."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from amidiag.soak.traps import (
    BACKGROUNDS,
    HELD_OUT_BACKGROUNDS,
    HELD_OUT_LIGHTS,
    LIGHTS,
    TrapImage,
    TrapSpec,
    load_mix,
    render,
)
from amidiag.soak.traps.score import iou, score
from worker.pipelines import PIPELINES, Detection, Pipeline, describe, load_pipeline

CPU = torch.device("cpu")
STAMP = "2026-11-20T08:00:00+00:00"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def binary() -> Pipeline:
    return load_pipeline("moth_binary", device=CPU)


@pytest.fixture(scope="module")
def species() -> Pipeline:
    return load_pipeline("trap_species", device=CPU)


def pixels(trap: TrapImage, mode: str = "RGB") -> torch.Tensor:
    with Image.open(io.BytesIO(trap.data)) as image:
        array = np.array(image.convert(mode))
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


def answers(found: Sequence[Detection]) -> list[dict[str, object]]:
    return [detection.to_api("1", STAMP) for detection in found]


@pytest.mark.parametrize(
    ("seed", "backgrounds", "lights"),
    [(510_001, HELD_OUT_BACKGROUNDS, HELD_OUT_LIGHTS), (510_002, BACKGROUNDS, LIGHTS)],
    ids=["held out families", "all families"],
)
def test_finds_and_sorts_insects_of_images_never_seen(
    species: Pipeline, seed: int, backgrounds: tuple[str, ...], lights: tuple[str, ...]
) -> None:
    """Issue 2, done-line 4: precision 0.9, recall 0.95 at IoU 0.5, kind 0.9."""
    pairs = []
    for spec in load_mix(seed, 40, broken_share=0, backgrounds=backgrounds, lights=lights):
        trap = render(spec)
        pairs.append((trap.insects, answers(species.process([pixels(trap)])[0])))
    result = score(pairs)
    assert result.planted >= 150
    assert result.precision is not None
    assert result.precision >= 0.9, result
    assert result.recall is not None
    assert result.recall >= 0.95, result
    assert result.kind_accuracy is not None
    assert result.kind_accuracy >= 0.9, result


def test_names_species(species: Pipeline) -> None:
    right = named = 0
    for spec in load_mix(510_003, 15, broken_share=0, max_side=2048, insects=(6, 12)):
        trap = render(spec)
        for detection in species.process([pixels(trap)])[0]:
            for insect in trap.insects:
                if iou(insect.bbox, detection.bbox) >= 0.5 and len(detection.classifications) == 2:
                    named += 1
                    right += detection.classifications[1].label == insect.species
    assert named >= 30
    assert right / named >= 0.9


def test_an_empty_sheet_is_empty(binary: Pipeline) -> None:
    bare = [pixels(render(TrapSpec(seed=s, width=800, height=600, insects=(0, 0)))) for s in range(12)]
    assert sum(len(found) for found in binary.process(bare)) <= 1


def test_a_list_is_answered_in_order_whatever_its_sizes_and_the_batch_sizes() -> None:
    """One image at a time, in small batches, or all at once: the same insects in the same places."""
    sizes = [(640, 480), (480, 640), (640, 480), (1600, 1200), (800, 600), (1024, 768), (640, 480)]
    images = [
        pixels(render(TrapSpec(seed=s, width=w, height=h, insects=(3, 9)))) for s, (w, h) in enumerate(sizes)
    ]
    alone = [load_pipeline("trap_species", device=CPU).process([image])[0] for image in images]
    assert all(alone)
    for localization, classification in ((1, 1), (2, 3), (50, 500)):
        pipeline = load_pipeline(
            "trap_species",
            device=CPU,
            localization_batch_size=localization,
            classification_batch_size=classification,
        )
        together = pipeline.process(images)
        assert [len(found) for found in together] == [len(found) for found in alone]
        for found, wanted in zip(together, alone, strict=True):
            for one, other in zip(found, wanted, strict=True):
                assert one.bbox == pytest.approx(other.bbox, abs=0.05)
                assert [c.label for c in one.classifications] == [c.label for c in other.classifications]


def test_batch_sizes_bound_what_goes_through_a_network_at_once() -> None:
    pipeline = load_pipeline(
        "trap_species", device=CPU, localization_batch_size=2, classification_batch_size=3
    )
    seen: dict[str, list[int]] = {"detector": [], "classifier": []}
    for name, part in (("detector", pipeline._detector), ("classifier", pipeline._stages[0].classifier)):
        part._network.register_forward_pre_hook(
            lambda _module, inputs, name=name: seen[name].append(len(inputs[0]))
        )
    images = [pixels(render(TrapSpec(seed=s, width=640, height=480, insects=(4, 4)))) for s in range(5)]
    count = sum(len(found) for found in pipeline.process(images))
    assert seen["detector"] == [2, 2, 1]
    assert max(seen["classifier"]) == 3
    assert sum(seen["classifier"]) == count


def test_no_images(binary: Pipeline, species: Pipeline) -> None:
    assert binary.process([]) == []
    assert species.process([]) == []


def test_grey_and_alpha(binary: Pipeline) -> None:
    trap = render(TrapSpec(seed=6, width=1024, height=768, background="plain", light="even", insects=(8, 8)))
    colour, alpha = pixels(trap), pixels(trap, "RGBA")
    assert alpha.shape[0] == 4
    assert [d.bbox for d in binary.process([alpha])[0]] == [d.bbox for d in binary.process([colour])[0]]
    grey = pixels(trap, "L")
    assert grey.shape[0] == 1
    result = score([(trap.insects, answers(binary.process([grey])[0]))])
    assert result.recall is not None
    assert result.recall >= 0.75


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (900, 2), (7, 5), (97, 131), (5000, 40)])
def test_odd_sizes_are_answered(species: Pipeline, size: tuple[int, int]) -> None:
    noise = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for found in species.process([noise, torch.zeros_like(noise), torch.full_like(noise, 255)]):
        for detection in found:
            x1, y1, x2, y2 = detection.bbox
            assert 0 <= x1 < x2 <= size[1]
            assert 0 <= y1 < y2 <= size[0]


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(3, 10, 10),
        torch.zeros(10, 10, dtype=torch.uint8),
        torch.zeros(5, 10, 10, dtype=torch.uint8),
        torch.zeros(3, 0, 10, dtype=torch.uint8),
    ],
)
def test_what_is_no_image_is_refused(binary: Pipeline, wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="not a uint8 image"):
        binary.process([wrong])


def test_inputs_are_left_alone(binary: Pipeline) -> None:
    image = pixels(render(TrapSpec(seed=9, width=640, height=480)))
    before = image.clone()
    binary.process([image])
    assert torch.equal(image, before)


def test_an_answer_has_the_shape_of_the_api(species: Pipeline) -> None:
    trap = render(
        TrapSpec(seed=4, width=1024, height=768, background="plain", light="even", insects=(12, 12))
    )
    found = species.process([pixels(trap)])[0]
    labels = {
        algorithm["key"]: algorithm["category_map"] for algorithm in describe("trap_species")["algorithms"]
    }
    kinds = set()
    for detection in found:
        answer = detection.to_api("77", STAMP)
        assert set(answer) == {
            "source_image_id",
            "bbox",
            "inference_time",
            "algorithm",
            "timestamp",
            "crop_image_url",
            "classifications",
        }
        assert (answer["source_image_id"], answer["timestamp"], answer["crop_image_url"]) == (
            "77",
            STAMP,
            None,
        )
        assert set(answer["algorithm"]) == {"name", "key"}
        assert 0 < answer["inference_time"] < 60
        assert all(isinstance(answer["bbox"][side], float) for side in ("x1", "y1", "x2", "y2"))
        assert sum(c["terminal"] for c in answer["classifications"]) == 1
        for given in answer["classifications"]:
            assert given["labels"] == labels[given["algorithm"]["key"]]["labels"]
            assert given["classification"] == given["labels"][int(np.argmax(given["scores"]))]
            assert sum(given["scores"]) == pytest.approx(1, abs=1e-4)
            assert torch.tensor(given["logits"]).softmax(0).tolist() == pytest.approx(
                given["scores"], abs=1e-4
            )
            assert given["timestamp"] == STAMP
        first = answer["classifications"][0]["classification"]
        kinds.add(first)
        assert len(answer["classifications"]) == (2 if first == "moth" else 1)
    assert kinds == {"moth", "nonmoth"}


def test_the_threshold_moves_the_terminal_label_and_loses_no_detection() -> None:
    image = pixels(render(TrapSpec(seed=4, width=1024, height=768, insects=(12, 12))))
    given = {
        threshold: load_pipeline("trap_species", device=CPU, classification_threshold=threshold).process(
            [image]
        )[0]
        for threshold in (0.0, 1.0)
    }
    assert [d.bbox for d in given[0.0]] == [d.bbox for d in given[1.0]]
    moths = [d for d in given[0.0] if len(d.classifications) == 2]
    assert moths
    assert all(not d.classifications[0].terminal and d.classifications[1].terminal for d in moths)
    unsure = [d for d in given[1.0] if len(d.classifications) == 2]
    assert len(unsure) == len(moths)
    assert all(d.classifications[0].terminal and not d.classifications[1].terminal for d in unsure)


def test_registration_names_what_the_answers_name() -> None:
    assert PIPELINES == ("moth_binary", "trap_species")
    for slug in PIPELINES:
        described = describe(slug)
        assert set(described) == {"name", "slug", "version", "description", "algorithms"}
        assert described["slug"] == slug
    keys = [algorithm["key"] for algorithm in describe("trap_species")["algorithms"]]
    assert keys == ["trap_sheet_detector", "moth_binary_classifier", "trap_species_classifier"]
    with pytest.raises(KeyError, match="moth_binary, trap_species"):
        describe("moths_of_mars")


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="batch sizes"):
        load_pipeline("moth_binary", device=CPU, localization_batch_size=0)
    with pytest.raises(ValueError, match="classification_threshold"):
        load_pipeline("moth_binary", device=CPU, classification_threshold=1.5)
    with pytest.raises(KeyError, match="moths_of_mars"):
        load_pipeline("moths_of_mars", device=CPU)


def test_no_descriptor_stays_open() -> None:
    """A leak hunter's worker must not leak: neither loading nor processing keeps an FD."""
    image = pixels(render(TrapSpec(seed=1, width=640, height=480)))
    load_pipeline("trap_species", device=CPU).process([image])
    before = len(os.listdir("/proc/self/fd"))
    kept = [load_pipeline("trap_species", device=CPU) for _ in range(5)]
    for pipeline in kept:
        pipeline.process([image])
    assert len(os.listdir("/proc/self/fd")) == before
