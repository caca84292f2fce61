"""Reading a status page from outside, without the program's help."""

from __future__ import annotations

import json
import os
import stat
import struct
import time
from datetime import UTC, datetime
from typing import Any, NamedTuple

from amidiag.model import Counters, Health, Identity, StatusView
from amidiag.procfs.errors import CannotObserve
from amidiag.procfs.processes import effective_uid, path_from_here
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
_MAPPED = SUFFIX.encode() + b"\n"
# O_NONBLOCK: to open a FIFO waits for a writer, else.
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
# Seconds until a process that had no page is looked at again: its memory map is long, its page may come late.
_LOOK_AGAIN_S = 1.0
# Processes a reader remembers. Those beyond are only found anew, and a soak builds loaders without end.
_REMEMBERED = 1024


class Page(NamedTuple):
    """One reading of a status page: whose it is, and what it says."""

    identity: Identity
    view: StatusView
    caches: dict[str, dict[str, int]]


class BadPageError(Exception):
    """The file is no status page of this version, is damaged, or is another user's."""


class Place(NamedTuple):
    """Where the page of a process lies, and the user (uid) it must belong to."""

    path: str
    owner: int


def find_page(identity: Identity) -> Place | None:
    """Where the page lies that a process has mapped and that names this process, or None.

    Its own memory map is asked, not a naming rule: so the file is found in another mount
    namespace or PID namespace too. Costs one read of `/proc/PID/maps`.
    """
    try:
        owner = effective_uid(identity.pid)
        paths = _mapped_pages(identity.pid)
    except (CannotObserve, OSError, ValueError):
        # Ended, not ours to read, or no FD left: no page that could be read.
        return None
    for path in paths:
        try:
            page = read_page(path, owner=owner)
        except (OSError, BadPageError):
            continue
        # A forked child may have its parent's page in its map, beside its own.
        if _names(page, identity):
            return Place(path, owner)
    return None


def _mapped_pages(pid: int) -> list[str]:
    with open(f"/proc/{pid}/maps", "rb") as maps:
        found = [os.fsdecode(line[:-1].split(maxsplit=5)[5]) for line in maps if line.endswith(_MAPPED)]
    return [path_from_here(pid, path) for path in found]


def _names(page: Page, identity: Identity) -> bool:
    # By start ticks, not by PID: they agree across PID namespaces.
    return (page.identity.boot_id, page.identity.start_ticks) == (identity.boot_id, identity.start_ticks)


def read_page(path: str, *, owner: int | None = None) -> Page:
    """Read a page, retrying while its text is being rewritten.

    `owner` is the uid of the process that the page is believed for: the file must belong to it. By
    path alone only a page of this reader's own user, or of root, is believed: whoever may write the
    file decides what it says.

    Raises:
        BadPageError: another owner, open to others than its owner, wrong magic, version or size, damaged.
        OSError: it cannot be opened or read.
    """
    fd = os.open(path, _OPEN)
    try:
        _check_owner(path, os.fstat(fd), {os.geteuid(), 0} if owner is None else {owner})
        for attempt in range(_TORN_RETRIES):
            raw = os.pread(fd, PAGE_SIZE, 0)
            if len(raw) != PAGE_SIZE or raw[:8] != MAGIC:
                raise BadPageError(f"{path} is no status page")
            words = _WORDS.unpack_from(raw)
            if words[W_VERSION] != VERSION:
                raise BadPageError(f"{path} has version {words[W_VERSION]}, this amidiag reads {VERSION}")
            if words[W_TEXT_SEQ] % 2 == 0 and os.pread(fd, 8, W_TEXT_SEQ * 8) == raw[W_TEXT_SEQ * 8 :][:8]:
                return _decode(path, raw, words)
            time.sleep(0.001 * attempt)
        raise BadPageError(f"{path} was being rewritten at every one of {_TORN_RETRIES} readings")
    finally:
        os.close(fd)


def _check_owner(path: str, info: os.stat_result, owners: set[int]) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise BadPageError(f"{path} is no status page: not a regular file")
    if info.st_uid not in owners:
        raise BadPageError(f"{path} belongs to another user (uid {info.st_uid}) and is not believed")
    if info.st_mode & 0o077:
        raise BadPageError(f"{path} is open to other users and is not believed")


def _decode(path: str, raw: bytes, words: tuple[int, ...]) -> Page:
    settings, caches, health = _parse(path, raw[TEXT_AT : TEXT_AT + words[W_TEXT_LEN]])
    boot_id = raw[W_BOOT_ID * 8 : W_BOOT_ID * 8 + 36].decode("ascii", "replace")
    state = words[W_STATE]
    view = StatusView(
        state=STATES[state] if state < len(STATES) else str(state),
        progress_age=max(0.0, (time.monotonic_ns() - words[W_PROGRESS]) / 1e9),
        counters=Counters(**dict(zip(COUNTERS, words[W_COUNTERS:], strict=False))),
        settings=settings,
        health=health,
    )
    return Page(Identity(boot_id, words[W_PID], words[W_START]), view, caches)


def _parse(path: str, text: bytes) -> tuple[dict[str, Any], dict[str, dict[str, int]], Health | None]:
    try:
        parts = json.loads(text)
        settings, caches = parts["settings"], parts["caches"]
        health = _health(parts.get("health"))
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError) as e:
        raise BadPageError(f"{path} is damaged: its text is not what a status page holds") from e
    if not (isinstance(settings, dict) and isinstance(caches, dict)):
        raise BadPageError(f"{path} is damaged: its settings or caches are no tables")
    return settings, caches, health


def _health(said: Any) -> Health | None:
    """None where the page says nothing of it. Raises what stands in `_parse` for what cannot be one."""
    if said is None:
        return None
    since = datetime.fromtimestamp(said["since"], UTC).isoformat(timespec="seconds")
    return Health(bool(said["ok"]), None if said["why"] is None else str(said["why"]), since)


class _Look(NamedTuple):
    """What was found of one process, and when it was looked for (CLOCK_MONOTONIC, seconds)."""

    place: Place | None
    at: float


class StatusReader:
    """Reads the pages of many processes again and again; remembers where each one lies.

    Callable as `reader(identity) -> StatusView | None`, which is what `procfs.observe_tree` takes.
    A process without a page (not our worker, or not yet), with another process's or another user's
    page, or with a damaged one gives None; it is looked at again at most every `look_again` seconds.
    """

    def __init__(self, look_again: float = _LOOK_AGAIN_S) -> None:
        self._look_again = look_again
        # In the order in which they were last asked for.
        self._looks: dict[Identity, _Look] = {}

    def __call__(self, identity: Identity) -> StatusView | None:
        place = self._place(identity)
        if place is None:
            return None
        try:
            page = read_page(place.path, owner=place.owner)
        except (OSError, BadPageError):
            page = None
        if page is None or not _names(page, identity):
            # Gone, replaced or damaged: to the caller that is "says nothing of itself".
            del self._looks[identity]
            return None
        return page.view

    def _place(self, identity: Identity) -> Place | None:
        look, now = self._looks.pop(identity, None), time.monotonic()
        if look is None or (look.place is None and now - look.at >= self._look_again):
            look = _Look(find_page(identity), now)
        self._looks[identity] = look
        if len(self._looks) > _REMEMBERED:
            del self._looks[next(iter(self._looks))]
        return look.place
