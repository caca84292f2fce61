"""What only `ami worker settings` has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SettingEntry:
    """One setting of the worker: its effective value (masked where secret), and where that comes from."""

    name: str
    value: Any
    default: Any
    source: str
    allowed: str
    doc: str
    secret: bool


@dataclass(frozen=True, slots=True)
class UnknownSetting:
    """An `AMI_` variable that nobody reads, with the nearest name that somebody does."""

    name: str
    nearest: str | None
    source: str


@dataclass(frozen=True, slots=True)
class SettingProblem:
    """One setting that cannot be used. `value` is None where it must not be shown or there is none."""

    setting: str
    value: str | None
    allowed: str
    source: str


@dataclass(frozen=True, slots=True)
class SettingsData:
    """What `ami worker settings` has. `unused` names upstream variables that this worker has no use for."""

    settings: tuple[SettingEntry, ...] = ()
    unused: tuple[str, ...] = ()
    unknown: tuple[UnknownSetting, ...] = ()
    problems: tuple[SettingProblem, ...] = ()
