"""An image's address to its bytes, within limits of time and size."""

from __future__ import annotations

import io
from typing import BinaryIO

import requests
from urllib3.exceptions import HTTPError

from worker.deadline import deadline, is_over
from worker.exhaustion import exhausted
from worker.http import CONNECT_TIMEOUT_S, cause
from worker.ingest import beat
from worker.ingest.limits import ImageLimits

CHUNK = 1 << 18


class DownloadError(Exception):
    """The image could not be fetched; the text says why."""


class _BrokenError(DownloadError):
    """The connection failed while the body came: that may be the fault of this connection alone."""


def download(session: requests.Session, url: str, limits: ImageLimits) -> bytes:
    """Fetch one image, by an `image_session`.

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
    with deadline(limits.timeout_s):
        try:
            return _fetch_to(session, url, limits, file)
        except _BrokenError as e:
            if is_over() or exhausted(e) is not None:
                raise
        # Once more: what fails before the body comes the session tries again by itself.
        beat.alive()
        file.seek(0)
        file.truncate()
        return _fetch_to(session, url, limits, file)


def _fetch_to(session: requests.Session, url: str, limits: ImageLimits, file: BinaryIO) -> int:
    # Left before its end, the response closes its connection: the next try has another.
    with _open(session, url, limits) as response:
        if response.status_code != 200:
            raise DownloadError(f"{response.status_code} {response.reason}")
        size = 0
        while part := _next_part(response, limits):
            beat.alive()
            size += len(part)
            if size > limits.max_bytes:
                raise DownloadError(f"more than {limits.max_bytes} bytes")
            file.write(part)
        return size


def _open(session: requests.Session, url: str, limits: ImageLimits) -> requests.Response:
    try:
        return session.get(url, stream=True, timeout=(CONNECT_TIMEOUT_S, limits.read_timeout_s))
    except (OSError, ValueError, HTTPError) as e:
        raise DownloadError(_in_words(e, limits)) from e


def _next_part(response: requests.Response, limits: ImageLimits) -> bytes:
    """What has come of the decoded body, empty at its end. `iter_content` waits for a whole chunk."""
    try:
        return response.raw.read1(CHUNK, decode_content=True)
    except (OSError, ValueError, HTTPError) as e:
        raise _BrokenError(_in_words(e, limits)) from e


def _in_words(error: Exception, limits: ImageLimits) -> str:
    return f"not finished after {limits.timeout_s:g} s" if is_over() else cause(error)
