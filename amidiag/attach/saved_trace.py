"""A mark in time for `--since`: when it was set, and what was open then that nobody had seen being made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amidiag.attach.trace_reading import Opened, TraceReading

_FORMAT = "amidiag-trace-mark/1"
# What may come to another process by inheritance or by being sent, under whatever number.
_SHARED = frozenset(("pipe", "socket", "memfd", "shm", "sysv", "anonymous"))

Key = tuple[int | None, str, tuple[int | None, ...]]
"""FD, type and key of what is open."""


class SavedTraceError(Exception):
    """The text is no saved mark, is damaged, or was saved on another machine or before a restart."""


@dataclass(frozen=True, slots=True)
class Saved:
    """The mark. `taken_at`: CLOCK_BOOTTIME in nanoseconds. `not_seen`: by (PID, start ticks)."""

    boot_id: str
    taken_at: int
    not_seen: Mapping[tuple[int, int], frozenset[Key]]


def save(reading: TraceReading) -> Saved:
    """The mark at the moment of a reading."""
    not_seen: dict[tuple[int, int], set[Key]] = {
        (pid, start): set() for pid, start in reading.started.items()
    }
    for opened in reading.opened:
        if opened.made is None:
            not_seen.setdefault(_process(reading, opened), set()).add(_key(opened))
    frozen = {process: frozenset(keys) for process, keys in not_seen.items()}
    return Saved(reading.boot_id, reading.at, frozen)


def opened_since(reading: TraceReading, saved: Saved) -> list[Opened]:
    """What of a reading was made after the mark, or was not seen being made and was not there then.

    Raises SavedTraceError where the mark is of another boot, machine or process: then it says nothing.
    """
    if reading.boot_id != saved.boot_id:
        raise SavedTraceError("the mark was saved on another machine, or before this one was restarted")
    _check_processes(reading, saved)
    everywhere = {key for keys in saved.not_seen.values() for key in keys}
    shared = {key[1:] for key in everywhere if key[1] in _SHARED}
    found = []
    for opened in reading.opened:
        if opened.made is not None:
            new = opened.made.boottime_ns > saved.taken_at
        elif opened.type in _SHARED:
            new = _key(opened)[1:] not in shared
        else:
            # A process that was started since may have inherited it.
            new = _key(opened) not in saved.not_seen.get(_process(reading, opened), everywhere)
        if new:
            found.append(opened)
    return found


def _check_processes(reading: TraceReading, saved: Saved) -> None:
    marked = set(saved.not_seen)
    # Of an ended process only the PID is known.
    same = marked & set(reading.started.items()) if reading.alive else {p for p, _ in marked} & _pids(reading)
    if marked and not same:
        pids = ", ".join(str(pid) for pid, _ in sorted(marked))
        raise SavedTraceError(f"the mark is of another process: PID {pids}")


def _pids(reading: TraceReading) -> set[int]:
    return {books.pid for books in reading.processes}


def _process(reading: TraceReading, opened: Opened) -> tuple[int, int]:
    return opened.pid, reading.started.get(opened.pid, 0)


def _key(opened: Opened) -> Key:
    return opened.fd, opened.type, opened.key


def to_json(saved: Saved) -> str:
    """As it is written to a file."""
    processes = [
        {"pid": pid, "start_ticks": start, "keys": sorted(keys, key=repr)}
        for (pid, start), keys in sorted(saved.not_seen.items())
    ]
    whole = {
        "format": _FORMAT,
        "boot_id": saved.boot_id,
        "taken_at": saved.taken_at,
        "not_seen": processes,
    }
    return json.dumps(whole)


def from_json(text: str) -> Saved:
    """Raises SavedTraceError where it is not what `to_json` wrote."""
    try:
        whole = json.loads(text)
        if whole["format"] != _FORMAT:
            raise SavedTraceError("it is not what `amidiag trace --save` of this version writes")
        return Saved(
            _of_type(str, whole["boot_id"]),
            _of_type(int, whole["taken_at"]),
            {
                (_of_type(int, p["pid"]), _of_type(int, p["start_ticks"])): frozenset(
                    map(_read_key, p["keys"])
                )
                for p in whole["not_seen"]
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise SavedTraceError("it is not what `amidiag trace --save` writes, or is damaged") from e


def _read_key(item: Any) -> Key:
    fd, kind, key = item
    numbers = tuple(None if number is None else _of_type(int, number) for number in key)
    return None if fd is None else _of_type(int, fd), _of_type(str, kind), numbers


def _of_type(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(value)
    return value
