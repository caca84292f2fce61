"""The caches of this process: each is registered, so that it can be measured and drained.

A module-level cache that nobody drains fills the memory of a process that lives long; so every one has a name, a size
and a way to empty it. Safe to use from several threads. Standard library only: loader processes import it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

log = logging.getLogger(__name__)


class CacheSize(NamedTuple):
    """How much a cache holds."""

    entries: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Registered:
    size: Callable[[], CacheSize]
    drain: Callable[[], None]
    bounded: bool


_registered: dict[str, _Registered] = {}
_lock = threading.Lock()


def register(
    name: str, *, size: Callable[[], CacheSize], drain: Callable[[], None], bounded: bool = False
) -> None:
    """Make a cache known under `name`; one that had this name before is replaced.

    `bounded`: it keeps itself below a limit in bytes, and is of use to the jobs that follow: it is measured, and
    drained only where memory is short.
    """
    with _lock:
        _registered[name] = _Registered(size, drain, bounded)


def forget(name: str) -> None:
    """Take a cache off the list, if it is there."""
    with _lock:
        _registered.pop(name, None)


def sizes() -> Mapping[str, CacheSize]:
    """What each registered cache holds now; one that cannot say is left out, and logged."""
    found = {}
    for name, cache in _all():
        try:
            found[name] = cache.size()
        except Exception:  # reporting never breaks the work
            log.exception("the cache %s cannot say what it holds", name)
    return found


def drain(*, bounded: bool = False) -> Mapping[str, CacheSize]:
    """Empty every cache, the bounded ones only if told to.

    Returns those that hold something afterwards: each is a leak, and logged as one.
    """
    chosen = [(name, cache) for name, cache in _all() if bounded or not cache.bounded]
    for name, cache in chosen:
        try:
            cache.drain()
        except Exception:  # reporting never breaks the work
            log.exception("the cache %s could not be drained", name)
    names = {name for name, _ in chosen}
    left = {name: size for name, size in sizes().items() if size.entries and name in names}
    for name, size in left.items():
        log.warning("the cache %s leaks: %s entries, %s bytes are left in it", name, size.entries, size.bytes)
    return left


def unbounded() -> Mapping[str, CacheSize]:
    """Of the caches that a drain at the end of a job empties, those that hold something."""
    bounded = {name for name, cache in _all() if cache.bounded}
    return {name: size for name, size in sizes().items() if size.entries and name not in bounded}


def _all() -> list[tuple[str, _Registered]]:
    with _lock:
        return list(_registered.items())
