"""Memory: of pipelines that are given up, of a device that has too little, and a device that is broken."""

from __future__ import annotations

import itertools
import logging
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from model_kit import BrightBox, Colour, scripted, write_pipeline
from worker_rig import TOKEN, job, settings_for, traps

from amidiag.soak.antenna import AntennaServer
from amidiag.target.status_page import StatusPage
from worker.answers import answer, detect
from worker.antenna.client import AntennaClient
from worker.antenna.schemas import Task
from worker.draining import Drain
from worker.guard.watchdog import Watchdog
from worker.ingest.batch import Batch, LoaderReport
from worker.loop import Worker
from worker.pipelines import Detection, Pipeline, load_pipeline
from worker.pipelines.device import DeviceError, device_error, is_out_of_memory
from worker.pipelines.manifest import read_manifest
from worker.pipelines.model_file import ModelError
from worker.pipelines.passes import GROW_AFTER, PassSize, PassSizes
from worker.pipelines.pipeline import build
from worker.pipelines.resident import ResidentPipelines
from worker.service import _ended

CPU = torch.device("cpu")
MIB = 1024**2


def rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def weights_of(pipeline: Pipeline) -> list[weakref.ref[torch.Tensor]]:
    """The weights of the built-in networks."""
    networks: list[Any] = [pipeline._detector, *(stage.classifier for stage in pipeline._stages)]
    return [weakref.ref(p) for network in networks for p in network._network.parameters()]


def test_the_pipeline_used_longest_ago_is_given_up_before_another_is_loaded() -> None:
    loaded: list[str] = []
    resident: ResidentPipelines

    def load(slug: str) -> Pipeline:
        loaded.append(slug)
        assert len(resident.loaded()) < 2
        return load_pipeline(slug.partition("/")[0], device=CPU)

    resident = ResidentPipelines(load, 2)
    for slug in ("moth_binary", "trap_species", "moth_binary", "trap_species/2"):
        resident.get(slug)
    assert resident.loaded() == ("moth_binary", "trap_species/2")
    assert loaded == ["moth_binary", "trap_species", "trap_species/2"]


def test_all_stay_where_no_limit_is_set() -> None:
    resident = ResidentPipelines(lambda slug: load_pipeline("moth_binary", device=CPU), 0)
    slugs = tuple(f"p{number}" for number in range(4))
    first = [resident.get(slug) for slug in slugs]
    assert resident.loaded() == slugs
    assert [resident.get(slug) for slug in slugs] == first


def test_no_weight_of_a_pipeline_outlives_it() -> None:
    resident = ResidentPipelines(lambda slug: load_pipeline(slug, device=CPU), 1)
    resident.get("trap_species").process([torch.zeros((3, 64, 64), dtype=torch.uint8)])
    weights = weights_of(resident.get("trap_species"))
    assert len(weights) > 20
    assert all(weight() is not None for weight in weights)
    resident.get("moth_binary")
    assert [weight for weight in weights if weight() is not None] == []


@pytest.mark.parametrize("kind", ["pt", "pt2"])
def test_the_memory_of_model_files_goes_back_to_the_system(tmp_path: Path, kind: str) -> None:
    """Six pipelines of 32 MiB each, one at a time."""
    wide = Colour(wide=8 * MIB)
    data = scripted(wide) if kind == "pt" else exported_wide(wide)
    spec = read_manifest(write_pipeline(tmp_path, box__pt=scripted(BrightBox()), colour__pt=data))
    resident = ResidentPipelines(lambda slug: build(spec, device=CPU), 1)
    del wide, data
    resident.get("0")
    before = rss()
    for number in range(1, 6):
        resident.get(str(number))
    assert rss() - before < 2 * 32 * MIB


def exported_wide(model: Colour) -> bytes:
    from model_kit import SIDE, exported

    return exported(model, (SIDE, SIDE))


class Small:
    """A pipeline on a device that has memory for `most` images, and says so as torch does."""

    def __init__(self, most: int, error: Callable[[], Exception] | None = None) -> None:
        self.slug = "small"
        self.most = most
        self.passes: list[int] = []
        self._error = error or (
            lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        )

    def process(self, images: Sequence[torch.Tensor]) -> list[list[Detection]]:
        self.passes.append(len(images))
        if len(images) > self.most:
            raise self._error()
        return [[] for _ in images]


def small(most: int, error: Callable[[], Exception] | None = None) -> Any:
    return Small(most, error)


def images(count: int) -> list[torch.Tensor]:
    return [torch.zeros((3, 2, 2), dtype=torch.uint8) for _ in range(count)]


def batch(count: int) -> Batch:
    tasks = tuple(Task(str(i), str(i), "u", None) for i in range(count))
    pixels = torch.zeros(12 * count, dtype=torch.uint8)
    offsets = tuple(range(0, 12 * count, 12))
    return Batch(pixels, ((2, 2),) * count, offsets, tasks, (), (), LoaderReport(0))


def test_too_little_memory_halves_the_images_per_pass_until_they_fit() -> None:
    pipeline = small(3)
    assert detect(pipeline, images(24)) == [[] for _ in range(24)]
    assert pipeline.passes == [24, 12, 6, *[3] * 8]


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory"),
        lambda: torch.cuda.OutOfMemoryError("CUDA out of memory"),
        lambda: RuntimeError(
            "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"
        ),
        lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_every_way_in_which_torch_says_it_is_understood(error: Callable[[], Exception]) -> None:
    assert is_out_of_memory(error())
    assert device_error(error()) is None
    pipeline = small(1, error)
    assert detect(pipeline, images(2)) == [[], []]
    assert pipeline.passes == [2, 1, 1]


def test_an_image_for_which_there_is_no_memory_alone_is_answered_as_an_error() -> None:
    pipeline = small(0)
    answers = answer(batch(3), lambda: pipeline, CPU)
    assert pipeline.passes == [3, 1, 1, 1]
    assert ["CUDA out of memory" in a.result["error"] for a in answers] == [True] * 3


def test_a_batch_that_does_not_fit_onto_the_device_goes_there_pass_by_pass() -> None:
    class Large(Batch):
        def images(self, device: torch.device) -> list[torch.Tensor]:
            if device.type != "cpu":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return Batch.images(self, device)

    pipeline, sizes = small(99), PassSizes()
    one = batch(4)
    large = Large(one.pixels, one.shapes, one.offsets, one.tasks, (), (), one.report)
    for _ in range(2):
        answers = answer(large, lambda: pipeline, torch.device("meta"), sizes)
        assert not [a for a in answers if "error" in a.result]
    assert pipeline.passes == [2, 2, 2, 2]


def test_the_size_is_kept_for_the_next_batches_and_grows_back() -> None:
    pipeline, sizes = small(2), PassSizes()
    answer(batch(8), lambda: pipeline, CPU, sizes)
    assert pipeline.passes == [8, 4, 2, 2, 2, 2]
    pipeline.passes.clear()
    answer(batch(8), lambda: pipeline, CPU, sizes)
    assert pipeline.passes == [2, 2, 2, 2]
    # The neighbour on the device has gone.
    pipeline.most = 100
    for _ in range(GROW_AFTER):
        answer(batch(8), lambda: pipeline, CPU, sizes)
    assert pipeline.passes[-1] == 8
    assert pipeline.passes.index(4) < GROW_AFTER < pipeline.passes.index(8)
    assert sizes.of("another").limit is None


def test_growing_in_vain_is_tried_less_and_less_often() -> None:
    pipeline, size = small(2), PassSize()
    for _ in range(40 * GROW_AFTER):
        detect(pipeline, images(4), size)
    # Two passes of two for each batch; a try of four in vain comes on top.
    tries = [at for at, count in enumerate(pipeline.passes) if count == 4]
    gaps = [b - a for a, b in itertools.pairwise(tries)]
    assert len(tries) >= 5
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 8 * gaps[0]


def test_smaller_batches_say_nothing_about_larger_ones() -> None:
    size = PassSize()
    size.failed(16)
    for _ in range(10 * GROW_AFTER):
        size.worked(4)
    assert size.limit == 8


def test_a_failed_pass_keeps_nothing_of_the_device_alive() -> None:
    """What is on the device must be gone before the cache is emptied: an exception would keep its frames."""
    kept: list[weakref.ref[torch.Tensor]] = []
    alive_at_next: list[bool] = []

    class Greedy(Small):
        def process(self, images: Sequence[torch.Tensor]) -> list[list[Detection]]:
            alive_at_next.append(any(k() is not None for k in kept))
            activations = torch.zeros(4)
            kept.append(weakref.ref(activations))
            return super().process(images)

    greedy: Any = Greedy(1)
    detect(greedy, images(4))
    assert alive_at_next == [False] * len(alive_at_next)
    assert len(alive_at_next) == 6


def test_too_little_memory_of_the_host_is_no_matter_of_the_passes() -> None:
    size, pipeline = PassSize(), small(2, MemoryError)
    assert detect(pipeline, images(4), size) == [[]] * 4
    assert (pipeline.passes, size.limit) == ([4, 1, 1, 1, 1], None)


def test_a_pipeline_that_answers_too_few_images_loses_none() -> None:
    class Short(Small):
        def process(self, images: Sequence[torch.Tensor]) -> list[list[Detection]]:
            return super().process(images)[:1]

    short: Any = Short(9)
    assert detect(short, images(3)) == [[], [], []]


BROKEN = "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`"


@pytest.mark.parametrize("alone", [True, False])
def test_a_broken_device_is_not_answered_image_by_image(alone: bool) -> None:
    pipeline = small(0, lambda: RuntimeError(BROKEN))
    with pytest.raises(DeviceError, match=r"^the GPU does not work any more: RuntimeError: CUDA error"):
        answer(batch(1 if alone else 4), lambda: pipeline, CPU)
    assert len(pipeline.passes) == 1


def test_a_device_that_breaks_while_a_pipeline_is_loaded_is_told_too() -> None:
    def load() -> Any:
        raise RuntimeError(BROKEN)

    with pytest.raises(DeviceError):
        answer(batch(1), load, CPU)


def test_other_errors_are_not_the_devices() -> None:
    for error in (RuntimeError("shape mismatch"), ValueError(BROKEN), KeyError("CUDA")):
        assert device_error(error) is None


def test_too_little_memory_for_a_pipeline_gives_all_others_up(caplog: pytest.LogCaptureFixture) -> None:
    resident: ResidentPipelines

    def load(slug: str) -> Pipeline:
        if slug == "large" and resident.loaded():
            raise torch.OutOfMemoryError("CUDA out of memory")
        if slug == "huge":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return load_pipeline("moth_binary", device=CPU)

    resident = ResidentPipelines(load, 0)
    for slug in ("a", "b", "large"):
        resident.get(slug)
    assert resident.loaded() == ("large",)
    with pytest.raises(torch.OutOfMemoryError):
        resident.get("huge")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            lambda: RuntimeError(BROKEN),
            70,
            "the GPU does not work any more: RuntimeError: CUDA error: device-side",
        ),
        (
            lambda: ModelError("/models/a.pt: cannot be read: gone"),
            78,
            "bad model file: /models/a.pt: cannot be read: gone",
        ),
    ],
)
def test_a_worker_ends_with_one_line_and_leaves_the_tasks_to_the_server(
    server: AntennaServer,
    page: StatusPage,
    caplog: pytest.LogCaptureFixture,
    error: Callable[[], Exception],
    code: int,
    said: str,
) -> None:
    def load(slug: str) -> Pipeline:
        raise error()

    server.add_job(job(*traps(2)))
    settings = settings_for(server, AMI_NUM_WORKERS=0)
    client = AntennaClient(settings.antenna_api_base_url, TOKEN)
    at_work = Worker(
        settings,
        client=client,
        page=page,
        drain=Drain(),
        slugs=["moth_binary"],
        load=load,
        device=CPU,
        watchdog=Watchdog(),
    )
    with caplog.at_level(logging.ERROR):
        assert _ended(lambda: at_work.run(1), settings) == code
    client.close()
    (record,) = caplog.records
    assert record.getMessage().startswith(said)
    assert record.exc_info is None
    assert (server.state().errors, server.state().reserved) == (0, 2)
