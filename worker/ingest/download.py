"""An image's address to its bytes, within limits of time and size."""

from __future__ import annotations

import io
import time
from typing import BinaryIO
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from worker.deadline import deadline, is_over
from worker.exhaustion import exhausted
from worker.http import CONNECT_TIMEOUT_S, cause
from worker.ingest import beat
from worker.ingest.limits import ImageLimits

CHUNK = 1 << 18
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 2.0
_NO_TIME = frozenset({429, 502, 503, 504})

# Hosts of which an image was given up: until one comes from there again, nobody waits for the others.
_given_up: set[str] = set()


class DownloadError(Exception):
    """The image could not be fetched; the text says why."""


class _BrokenError(DownloadError):
    """The connection failed while the body came: that may be the fault of this connection alone."""


class _OutOfReachError(DownloadError):
    """The server cannot be reached, or says that it has no time: the fault of no image."""


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
    host = _host(url)
    patience_s = 0.0 if host in _given_up else limits.patience_s
    with deadline(limits.timeout_s):
        try:
            size = _fetch_patiently(session, url, limits, file, patience_s)
        except _OutOfReachError:
            _given_up.add(host)
            raise
    _given_up.discard(host)
    return size


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        # The session says what is wrong with it.
        return ""


def _fetch_patiently(
    session: requests.Session, url: str, limits: ImageLimits, file: BinaryIO, patience_s: float
) -> int:
    """Try once more where the body broke off, and for `patience_s` where the server is out of reach: a store that
    restarts costs no image. What fails before the body the session has tried three times by itself."""
    until = time.monotonic() + patience_s
    pause, broken = _FIRST_PAUSE_S, 0
    while True:
        try:
            return _fetch_to(session, url, limits, file)
        except _BrokenError as e:
            broken += 1
            if broken > 1 or is_over() or exhausted(e) is not None:
                raise
        except _OutOfReachError as e:
            if time.monotonic() + pause > until or is_over() or exhausted(e) is not None:
                raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        beat.alive()
        file.seek(0)
        file.truncate()


def _fetch_to(session: requests.Session, url: str, limits: ImageLimits, file: BinaryIO) -> int:
    # Left before its end, the response closes its connection: the next try has another.
    with _open(session, url, limits) as response:
        if response.status_code != 200:
            kind = _OutOfReachError if response.status_code in _NO_TIME else DownloadError
            raise kind(f"{response.status_code} {response.reason}")
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
    except (ValueError, requests.TooManyRedirects) as e:
        # An address that is none, or leads nowhere: here waiting does not help.
        raise DownloadError(_in_words(e, limits)) from e
    except (OSError, HTTPError) as e:
        raise _OutOfReachError(_in_words(e, limits)) from e


def _next_part(response: requests.Response, limits: ImageLimits) -> bytes:
    """What has come of the decoded body, empty at its end. `iter_content` waits for a whole chunk."""
    try:
        return response.raw.read1(CHUNK, decode_content=True)
    except (OSError, ValueError, HTTPError) as e:
        raise _BrokenError(_in_words(e, limits)) from e


def _in_words(error: Exception, limits: ImageLimits) -> str:
    return f"not finished after {limits.timeout_s:g} s" if is_over() else cause(error)
