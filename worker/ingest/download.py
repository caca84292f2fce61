"""An image's address to its bytes, within limits of time and size."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import requests
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from worker.http import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, cause, new_session, proxies_for

MAX_BYTES = 512 * 1024 * 1024
TOTAL_TIMEOUT_S = 120.0
CHUNK = 1 << 18


class DownloadError(Exception):
    """The image could not be fetched; the text says why."""


def image_session(threads: int) -> requests.Session:
    """A session for `threads` downloads at a time. It has no token: images may lie on any host."""
    # It warns of each retry with path and query, and the query of a signed address is a secret.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    retry = Retry(
        total=2,
        backoff_factor=0.25,
        status_forcelist=(429, 502, 503, 504),
        allowed_methods=("GET",),
        raise_on_status=False,
        # Whoever has the image must not decide for how long a loader sleeps.
        respect_retry_after_header=False,
    )
    return new_session(connections=threads, retry=retry)


def download(session: requests.Session, url: str) -> bytes:
    """Fetch one image.

    Raises:
        DownloadError: whatever the network or the server did; also beyond `MAX_BYTES` or `TOTAL_TIMEOUT_S`.
    """
    deadline = time.monotonic() + TOTAL_TIMEOUT_S
    try:
        with session.get(
            url, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S), proxies=proxies_for(url)
        ) as response:
            if response.status_code != 200:
                raise DownloadError(f"{response.status_code} {response.reason}")
            return _body(response, deadline)
    except (OSError, HTTPError) as e:
        raise DownloadError(cause(e)) from e


def _body(response: requests.Response, deadline: float) -> bytes:
    parts, size = [], 0
    for part in _as_it_comes(response):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise DownloadError(f"more than {MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise DownloadError(f"not finished after {TOTAL_TIMEOUT_S:.0f} s ({size} bytes so far)")
    return b"".join(parts)


def _as_it_comes(response: requests.Response) -> Iterator[bytes]:
    """The decoded body. `iter_content` waits for a whole chunk, however slowly its bytes come."""
    if not hasattr(response.raw, "read1"):
        # urllib3 before 2.1.
        yield from response.iter_content(CHUNK)
        return
    while part := response.raw.read1(CHUNK, decode_content=True):
        yield part
