"""The trap images behind `image_url`: rendered from their spec when first asked for, then cached."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from amidiag.soak.antenna.words import ImageSpec

if TYPE_CHECKING:
    from amidiag.soak.traps import TrapSpec


class ImageFile(NamedTuple):
    """What a download gets."""

    data: bytes
    content_type: str


class ImageStore:
    """Images by id. Holds at most `cache_bytes` of rendered files, the least recently used go first.

    A spec is rendered once however many ask for it at the same time, and no more of them than
    the machine has cores: a rendering of 12 megapixels takes a hundred times its file's memory.
    """

    def __init__(self, cache_bytes: int, render: Callable[[TrapSpec], ImageFile] | None = None) -> None:
        self._render = render or render_trap
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()
        self._images: dict[str, ImageSpec] = {}
        self._cached: OrderedDict[TrapSpec, ImageFile] = OrderedDict()
        self._cached_bytes = 0
        self._rendering: dict[TrapSpec, Future[ImageFile]] = {}
        self._cores = threading.Semaphore(len(os.sched_getaffinity(0)))

    def add(self, image_id: str, spec: ImageSpec) -> None:
        """Makes an image downloadable."""
        with self._lock:
            self._images[image_id] = spec

    def spec(self, image_id: str) -> ImageSpec | None:
        """What the image of this id is made from, None where there is none."""
        with self._lock:
            return self._images.get(image_id)

    def file(self, trap: TrapSpec) -> ImageFile:
        """The rendered image. Raises what rendering raises."""
        with self._lock:
            if (found := self._cached.get(trap)) is not None:
                self._cached.move_to_end(trap)
                return found
            rendering = self._rendering.get(trap)
            if mine := rendering is None:
                rendering = self._rendering[trap] = Future()
        if mine:
            self._make(trap, rendering)
        return rendering.result()

    def _make(self, trap: TrapSpec, rendering: Future[ImageFile]) -> None:
        try:
            with self._cores:
                image = self._render(trap)
        except BaseException as error:  # noqa: BLE001 - handed to everybody who waits for this image
            with self._lock:
                del self._rendering[trap]
            rendering.set_exception(error)
            return
        with self._lock:
            del self._rendering[trap]
            self._keep(trap, image)
        rendering.set_result(image)

    def _keep(self, trap: TrapSpec, image: ImageFile) -> None:
        if len(image.data) > self._cache_bytes:
            return
        self._cached[trap] = image
        self._cached_bytes += len(image.data)
        while self._cached_bytes > self._cache_bytes:
            _, dropped = self._cached.popitem(last=False)
            self._cached_bytes -= len(dropped.data)


def read_image(path: str, trap: TrapSpec) -> ImageFile:
    """An image that lies in a file. Raises OSError."""
    return ImageFile(Path(path).read_bytes(), f"image/{trap.format}")


def render_trap(trap: TrapSpec) -> ImageFile:
    """Renders by `amidiag.soak.traps`, imported on first use: it needs numpy and Pillow."""
    from amidiag.soak.traps import render

    image = render(trap)
    return ImageFile(image.data, image.content_type)
