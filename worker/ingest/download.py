"""An image's address to its bytes, within limits of time and size."""

from __future__ import annotations

import io
import logging
from typing import BinaryIO

import requests
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from worker.http import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, cause, new_session, proxies_for
from worker.ingest.deadline import DeadlineAdapter, deadline, is_over
from worker.ingest.limits import ImageLimits

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
    session = new_session(connections=threads)
    for scheme in ("http://", "https://"):
        session.mount(scheme, DeadlineAdapter(pool_connections=4, pool_maxsize=threads, max_retries=retry))
    return session


def download(session: requests.Session, url: str, limits: ImageLimits) -> bytes:
    """Fetch one image.

    Raises:
        DownloadError: whatever the network or the server did; also beyond the limits of bytes or time.
    """
    # Its bytes are handed out without a copy, where a list of parts would be joined into one.
    body = io.BytesIO()
    download_to(session, url, limits, body)
    return body.getvalue()


def download_to(session: requests.Session, url: str, limits: ImageLimits, file: BinaryIO) -> int:
    """Fetch one image into `file`, piece by piece as it comes. Returns its bytes.

    Raises:
        DownloadError: as `download`; `file` then holds what came until then.
        OSError: `file` cannot be written.
    """
    with deadline(limits.timeout_s), _open(session, url, limits) as response:
        if response.status_code != 200:
            raise DownloadError(f"{response.status_code} {response.reason}")
        size = 0
        while part := _next_part(response, limits):
            size += len(part)
            if size > limits.max_bytes:
                raise DownloadError(f"more than {limits.max_bytes} bytes")
            file.write(part)
        return size


def _open(session: requests.Session, url: str, limits: ImageLimits) -> requests.Response:
    try:
        return session.get(
            url, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S), proxies=proxies_for(url)
        )
    except (OSError, ValueError, HTTPError) as e:
        raise _failure(e, limits) from e


def _next_part(response: requests.Response, limits: ImageLimits) -> bytes:
    """What has come of the decoded body, empty at its end. `iter_content` waits for a whole chunk."""
    try:
        return response.raw.read1(CHUNK, decode_content=True)
    except (OSError, ValueError, HTTPError) as e:
        raise _failure(e, limits) from e


def _failure(error: Exception, limits: ImageLimits) -> DownloadError:
    return DownloadError(f"not finished after {limits.timeout_s:g} s" if is_over() else cause(error))
