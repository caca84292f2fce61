"""Images come out as `amidiag.soak.traps` renders them, once each, and without a token."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from antenna_client import TIME_LIMIT_S, Worker
from PIL import Image

from amidiag.soak.antenna import AntennaServer, ImageSpec, JobSpec
from amidiag.soak.antenna.image_store import ImageFile, ImageStore, render_trap
from amidiag.soak.traps import BROKEN_KINDS, TrapSpec, render
from amidiag.soak.traps.spec import Broken

JPEG = TrapSpec(seed=3, width=320, height=240, insects=(1, 4), insect_size=(0.1, 0.3))


def test_a_download_is_the_rendered_image_under_the_suffix_of_its_format(
    server: AntennaServer, worker: Worker
) -> None:
    specs = (JPEG, replace(JPEG, format="png"))
    job = server.add_job(JobSpec("moth_binary", specs))
    tasks = worker.reserve(job, 2)

    for task, spec, suffix in zip(tasks, specs, (".jpg", ".png"), strict=True):
        answer = requests.get(task["image_url"], timeout=TIME_LIMIT_S)
        assert task["image_url"].endswith(suffix)
        assert answer.headers["Content-Type"] == f"image/{spec.format}"
        assert answer.content == render(spec).data
        assert Image.open(io.BytesIO(answer.content)).size == (320, 240)


@pytest.mark.parametrize("broken", BROKEN_KINDS)
def test_broken_images_arrive_as_broken_as_they_are(
    server: AntennaServer, worker: Worker, broken: Broken
) -> None:
    spec = replace(JPEG, broken=broken)
    job = server.add_job(JobSpec("moth_binary", (spec,)))
    (task,) = worker.reserve(job, 1)

    answer = requests.get(task["image_url"], timeout=TIME_LIMIT_S)

    expected = render(spec)
    assert (answer.status_code, answer.content) == (200, expected.data)
    assert answer.headers["Content-Type"] == expected.content_type
    assert server.answers(job)[0].spec == spec


def test_images_that_are_not_there(server: AntennaServer) -> None:
    origin = server.base_url.removesuffix("/api/v2")
    for path in ("/images/1.jpg", "/images/", "/images/..%2f..%2fetc%2fpasswd", "/images/1/2.jpg"):
        assert requests.get(f"{origin}{path}", timeout=TIME_LIMIT_S).status_code == 404


def test_an_image_that_cannot_be_rendered_is_a_500_and_the_server_goes_on(
    server: AntennaServer, worker: Worker
) -> None:
    # JPEG ends at 65,535 pixels a side, which the encoder finds out, not the spec.
    job = server.add_job(JobSpec("moth_binary", (TrapSpec(seed=1, width=70_000, height=1),)))
    (task,) = worker.reserve(job, 1)

    answer = requests.get(task["image_url"], timeout=TIME_LIMIT_S)

    assert answer.status_code == 500
    assert answer.json()["detail"]
    assert worker.poll() == [job]


def test_one_spec_is_rendered_once_for_all_who_ask_at_the_same_time() -> None:
    rendered: list[TrapSpec] = []
    go_on = threading.Event()

    def slowly(spec: TrapSpec) -> ImageFile:
        rendered.append(spec)
        go_on.wait(TIME_LIMIT_S)
        return render_trap(spec)

    store = ImageStore(cache_bytes=10**7, render=slowly)
    files: list[ImageFile] = []
    threads = [threading.Thread(target=lambda: files.append(store.file(JPEG))) for _ in range(8)]
    for thread in threads:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join()

    assert rendered == [JPEG]
    assert len({id(file.data) for file in files}) == 1
    assert files[0].data == render(JPEG).data


def test_the_cache_is_bounded_and_drops_what_was_not_used_longest() -> None:
    rendered: list[int] = []

    def forty_bytes(spec: TrapSpec) -> ImageFile:
        rendered.append(spec.seed)
        return ImageFile(bytes(40), "image/jpeg")

    store = ImageStore(cache_bytes=100, render=forty_bytes)
    for seed in (1, 2, 1, 3, 1, 2):
        store.file(replace(JPEG, seed=seed))
    # 3 drove out 2, not 1, which had been used since.
    assert rendered == [1, 2, 3, 2]

    nothing = ImageStore(cache_bytes=39, render=forty_bytes)
    rendered.clear()
    nothing.file(JPEG)
    nothing.file(JPEG)
    assert rendered == [3, 3]


def test_a_failed_rendering_reaches_everyone_and_is_tried_again() -> None:
    attempts: list[int] = []

    def second_time_lucky(spec: TrapSpec) -> ImageFile:
        attempts.append(1)
        if len(attempts) == 1:
            raise MemoryError("no room")
        return render_trap(spec)

    store = ImageStore(cache_bytes=10**7, render=second_time_lucky)
    store.add("1", ImageSpec(JPEG))
    with pytest.raises(MemoryError):
        store.file(JPEG)
    assert store.file(JPEG).data == render(JPEG).data


def test_an_image_may_be_a_file_of_the_controllers_own(
    server: AntennaServer, worker: Worker, tmp_path: Path
) -> None:
    file = tmp_path / "large.jpg"
    file.write_bytes(b"as it is")
    images = (ImageSpec(JPEG, path=str(file)), ImageSpec(JPEG, path=str(tmp_path / "none.jpg")))
    job = server.add_job(JobSpec("moth_binary", images))
    there, not_there = (
        requests.get(task["image_url"], timeout=TIME_LIMIT_S) for task in worker.reserve(job, 2)
    )

    assert (there.status_code, there.content) == (200, b"as it is")
    assert there.headers["Content-Type"] == "image/jpeg"
    assert not_there.status_code == 500
