"""JPEGs over HTTP on loopback, from a process of its own, so that serving costs the measured loaders nothing but bytes.

`/640x480/17.jpg` is image 17 of that size; there are only a few distinct ones, which lie in memory, so that every
address is new to a cache and no image has to be drawn while others are timed.
"""

from __future__ import annotations

import io
import multiprocessing
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import numpy as np
from PIL import Image

Size = tuple[int, int]
"""Width and height, in pixels."""

DISTINCT = 4
_REQUEST = re.compile(rb"GET /(\d+)x(\d+)/(\d+)\.jpg ")


def jpeg(size: Size, seed: int, *, quality: int = 85, noise: int = 0) -> bytes:
    """A picture with smooth and grainy parts, as photographs have them. `noise`: amplitude of the grain, in levels."""
    width, height = size
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 226, (height // 64 + 2, width // 64 + 2, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    grain = noise or 12
    levels = np.asarray(smooth, dtype=np.int16)
    levels = levels + rng.integers(-grain, grain + 1, (height, width, 1), dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def address(origin: str, size: Size, number: int) -> str:
    """Where an image is to be had."""
    return f"{origin}/{size[0]}x{size[1]}/{number}.jpg"


@contextmanager
def serving(sizes: list[Size]) -> Iterator[str]:
    """Serve images of these sizes until the end of the block; gives scheme, host and port."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, sizes), daemon=True)
    process.start()
    theirs.close()
    try:
        yield str(ours.recv())
    finally:
        process.terminate()
        process.join()
        ours.close()


def _serve(control: Connection, sizes: list[Size]) -> None:
    files = {(*size, n): jpeg(size, n) for size in sizes for n in range(DISTINCT)}
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        control.send(f"http://127.0.0.1:{listening.getsockname()[1]}")
        while True:
            connection, _ = listening.accept()
            # Header and body are written apart: with Nagle's algorithm the body would wait for an ACK.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_converse, args=(connection, files), daemon=True).start()


def _converse(connection: socket.socket, files: dict[tuple[int, int, int], bytes]) -> None:
    """Answer one request after another; `http.server` takes half a millisecond for its headers alone."""
    with connection:
        asked = b""
        while part := connection.recv(65536):
            asked += part
            if not asked.endswith(b"\r\n\r\n"):
                continue
            match = _REQUEST.match(asked)
            asked = b""
            if match is None:
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                continue
            file = files[int(match[1]), int(match[2]), int(match[3]) % DISTINCT]
            header = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(file)}\r\n\r\n"
            connection.sendall(header.encode())
            connection.sendall(file)
