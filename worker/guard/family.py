"""The processes below this one, listed seldom and remembered: a listing goes over all processes of the machine."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from amidiag.model import Identity
from amidiag.procfs.errors import CannotObserve
from amidiag.procfs.identity import identify, identity_of
from amidiag.procfs.limits import nofile_limit
from amidiag.procfs.tree import read_tree

LIST_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Member:
    """A descendant of the worker. `soft_limit`: at how many FDs it meets EMFILE, None for no limit."""

    identity: Identity
    name: str
    soft_limit: int | None


class Family:
    """The descendants of this process. What began since the last listing is missing for half a second."""

    def __init__(self) -> None:
        self._members: tuple[Member, ...] = ()
        self._listed_at = float("-inf")

    def members(self) -> tuple[Member, ...]:
        """All that live, or lived half a second ago. About 1 ms where they are listed anew.

        Where they cannot be listed, as at EMFILE, those of the last time.
        """
        now = time.monotonic()
        if now - self._listed_at >= LIST_EVERY_S:
            self._listed_at = now
            try:
                stats = read_tree(identify(os.getpid()))[1:]
                self._members = tuple(
                    Member(identity_of(stat), stat.name, _soft_limit(stat.pid))
                    for stat in stats
                    if not stat.ended
                )
            except CannotObserve:
                return self._members
        return self._members


def _soft_limit(pid: int) -> int | None:
    try:
        return nofile_limit(pid).soft
    except CannotObserve:
        # It has ended meanwhile, and is found so when its FDs are counted.
        return None
