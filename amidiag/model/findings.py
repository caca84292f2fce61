"""What is wrong, why, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from amidiag.model.words import Severity


@dataclass(frozen=True, slots=True)
class CallSite:
    """How many open resources came from one stack (`file:line function`, innermost last)."""

    count: int
    stack: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mitigation:
    """A setting and its new value. `proven` is None where no experiment was made."""

    dialect: str
    setting: str
    value: str
    why: str
    costs: str
    proven: bool | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict or a state with a cause, its evidence and what to do about it."""

    code: str
    title: str
    severity: Severity
    pid: int | None
    resource: str | None
    cause: str
    evidence: tuple[str, ...] = ()
    call_sites: tuple[CallSite, ...] = ()
    mitigations: tuple[Mitigation, ...] = ()
    url: str | None = None
