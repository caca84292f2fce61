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


_registered: dict[str, _Registered] = {}
_lock = threading.Lock()


def register(name: str, *, size: Callable[[], CacheSize], drain: Callable[[], None]) -> None:
    """Make a cache known under `name`; one that had this name before is replaced."""
    with _lock:
        _registered[name] = _Registered(size, drain)


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


def drain() -> Mapping[str, CacheSize]:
    """Empty every cache. Returns those that hold something afterwards: each is a leak, and logged as one."""
    for name, cache in _all():
        try:
            cache.drain()
        except Exception:  # reporting never breaks the work
            log.exception("the cache %s could not be drained", name)
    left = {name: size for name, size in sizes().items() if size.entries}
    for name, size in left.items():
        log.warning("the cache %s leaks: %s entries, %s bytes are left in it", name, size.entries, size.bytes)
    return left


def _all() -> list[tuple[str, _Registered]]:
    with _lock:
        return list(_registered.items())
