"""The numbers and closed sets of words that every room uses."""

from __future__ import annotations

from typing import Literal

SCHEMA = "amidiag/1"

VerdictKind = Literal["leak", "growing", "stable", "undecided"]
Unit = Literal["fd", "thread", "byte"]
Severity = Literal["error", "warning", "info"]
CheckOutcome = Literal["passed", "failed", "undecided"]
Role = Literal["worker", "loader", "resource_tracker", "fork_server", "shm_manager", "other"]


class ExitCode:
    """What `amidiag` tells its caller (DESIGN.md, "What a user does with it")."""

    CLEAN = 0
    FINDING = 1
    USAGE = 2
    CANNOT_OBSERVE = 3
    UNDECIDED = 4
