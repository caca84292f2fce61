"""Reading a status page from outside, without the program's help."""

from __future__ import annotations

import json
import os
import struct
import time
from dataclasses import dataclass

from amidiag.model import Counters, Identity, StatusView
from amidiag.target.status_page import (
    COUNTERS,
    MAGIC,
    PAGE_SIZE,
    STATES,
    SUFFIX,
    TEXT_AT,
    VERSION,
    W_BOOT_ID,
    W_COUNTERS,
    W_PID,
    W_PROGRESS,
    W_START,
    W_STATE,
    W_TEXT_LEN,
    W_TEXT_SEQ,
    W_VERSION,
)

_WORDS = struct.Struct(f"={TEXT_AT // 8}Q")
_TORN_RETRIES = 5


@dataclass(frozen=True, slots=True)
class Page:
    """One reading of a status page: whose it is, and what it says."""

    identity: Identity
    view: StatusView
    caches: dict[str, dict[str, int]]


class BadPageError(Exception):
    """The file is no status page of this version, or another user's."""


def find_page(identity: Identity) -> str | None:
    """The path under which the page that a process has mapped can be opened, or None.

    Its own memory map is asked, not a naming rule: so the file is found in another mount
    namespace or PID namespace too. Costs one read of `/proc/PID/maps`.
    """
    needle = SUFFIX.encode()
    try:
        with open(f"/proc/{identity.pid}/maps", "rb") as maps:
            for line in maps:
                if line.rstrip().endswith(needle):
                    path = os.fsdecode(line.rstrip().split(maxsplit=5)[5])
                    rooted = f"/proc/{identity.pid}/root{path}"
                    return rooted if os.path.exists(rooted) else path
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return None


def read_page(path: str) -> Page:
    """Read a page, retrying while its text is being rewritten.

    Raises:
        BadPageError: wrong magic, version or size, or the file is open to others than its owner.
        OSError: it cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.fstat(fd).st_mode & 0o077:
            raise BadPageError(f"{path} is open to other users and is not believed")
        for attempt in range(_TORN_RETRIES):
            raw = os.pread(fd, PAGE_SIZE, 0)
            if len(raw) != PAGE_SIZE or raw[:8] != MAGIC:
                raise BadPageError(f"{path} is no status page")
            words = _WORDS.unpack_from(raw)
            if words[W_VERSION] != VERSION:
                raise BadPageError(f"{path} has version {words[W_VERSION]}, this amidiag reads {VERSION}")
            if words[W_TEXT_SEQ] % 2 == 0 and os.pread(fd, 8, W_TEXT_SEQ * 8) == raw[W_TEXT_SEQ * 8 :][:8]:
                return _decode(raw, words)
            time.sleep(0.001 * attempt)
        raise BadPageError(f"{path} was being rewritten at every one of {_TORN_RETRIES} readings")
    finally:
        os.close(fd)


def _decode(raw: bytes, words: tuple[int, ...]) -> Page:
    text = json.loads(raw[TEXT_AT : TEXT_AT + words[W_TEXT_LEN]])
    boot_id = raw[W_BOOT_ID * 8 : W_BOOT_ID * 8 + 36].decode("ascii", "replace")
    state = words[W_STATE]
    view = StatusView(
        state=STATES[state] if state < len(STATES) else str(state),
        progress_age=max(0.0, (time.monotonic_ns() - words[W_PROGRESS]) / 1e9),
        counters=Counters(**dict(zip(COUNTERS, words[W_COUNTERS:], strict=False))),
        settings=text["settings"],
    )
    return Page(Identity(boot_id, words[W_PID], words[W_START]), view, text["caches"])


class StatusReader:
    """Reads the pages of many processes again and again; remembers where each one lies.

    Callable as `reader(identity) -> StatusView | None`, which is what `procfs.observe_tree` takes.
    A process without a page (not our worker), or with a page that names another process, gives None.
    """

    def __init__(self) -> None:
        self._paths: dict[Identity, str | None] = {}

    def __call__(self, identity: Identity) -> StatusView | None:
        if identity not in self._paths:
            self._paths[identity] = find_page(identity)
        path = self._paths[identity]
        if path is None:
            return None
        try:
            page = read_page(path)
        except (OSError, BadPageError, ValueError):
            # Gone, replaced or damaged: to the caller that is "says nothing of itself".
            del self._paths[identity]
            return None
        # A forked child may have its parent's page in its map. Compare by start ticks, not by PID:
        # they agree across PID namespaces.
        if page.identity.start_ticks != identity.start_ticks or page.identity.boot_id != identity.boot_id:
            return None
        return page.view
