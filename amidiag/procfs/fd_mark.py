"""A mark for `fds --since`: what processes had open at a moment, to show later only what is new."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amidiag.model import Identity
from amidiag.procfs.fd_listing import FdListing
from amidiag.procfs.identity import boot_id

_FORMAT = "amidiag-fds-mark/1"


class FdMarkError(Exception):
    """The text is no mark, is damaged, or was saved on another machine, before a restart or of other processes."""


@dataclass(frozen=True, slots=True)
class FdMark:
    """`taken_at`: ISO 8601, UTC. `fds`: by process, each FD as `FdListing.marks` names it."""

    taken_at: str
    fds: Mapping[Identity, frozenset[str]]


def to_json(listings: Mapping[Identity, FdListing], taken_at: str) -> str:
    """The mark of these processes, as it is written to a file."""
    processes = [
        {"pid": one.pid, "start_ticks": one.start_ticks, "fds": [mark for _, mark in listing.marks()]}
        for one, listing in listings.items()
    ]
    whole = {"format": _FORMAT, "boot_id": boot_id(), "taken_at": taken_at, "processes": processes}
    return json.dumps(whole, separators=(",", ":")) + "\n"


def from_json(text: str, targets: Sequence[Identity]) -> FdMark:
    """Raises FdMarkError where it is not what `to_json` wrote, or says nothing of one of `targets`.

    Descendants may be missing: those that were started since have nothing but new FDs.
    """
    try:
        whole = json.loads(text)
        if whole["format"] != _FORMAT:
            raise FdMarkError("it is not what `amidiag fds --save` of this version writes")
        boot, taken_at = str(whole["boot_id"]), str(whole["taken_at"])
        fds = {
            Identity(boot, int(p["pid"]), int(p["start_ticks"])): frozenset(map(str, p["fds"]))
            for p in whole["processes"]
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise FdMarkError("it is not what `amidiag fds --save` writes, or is damaged") from e
    if boot != boot_id():
        raise FdMarkError("it was saved on another machine, or before this one was restarted")
    for target in targets:
        if target not in fds:
            raise FdMarkError(_missing(target, fds))
    return FdMark(taken_at, fds)


def _missing(target: Identity, fds: Mapping[Identity, frozenset[str]]) -> str:
    if any(known.pid == target.pid for known in fds):
        return f"it was saved of another process with PID {target.pid}, which has ended since"
    return f"it says nothing of process {target.pid}, which was not looked at or did not run yet"
