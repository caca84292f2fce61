"""The one object that every command prints with `--json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from amidiag.model.words import SCHEMA

if TYPE_CHECKING:
    from amidiag.model.fds import FdsData
    from amidiag.model.findings import Finding
    from amidiag.model.process import ProcessObservation, TreeUse
    from amidiag.model.series import RateData, SeriesReport
    from amidiag.model.settings import SettingsData
    from amidiag.model.shm import ShmData
    from amidiag.model.soak import RecipeList, SoakData
    from amidiag.model.trace import TraceData, TraceFiles
    from amidiag.model.tune import TuneData


@dataclass(frozen=True, slots=True)
class NoData:
    """A command that has nothing beyond the common parts."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every command's `--json` prints, one object on standard output and nothing else there."""

    command: str
    generated_at: str
    host: str
    exit_code: int
    processes: tuple[ProcessObservation, ...] = ()
    tree: TreeUse | None = None
    series: tuple[SeriesReport, ...] = ()
    findings: tuple[Finding, ...] = ()
    data: (
        FdsData
        | ShmData
        | RateData
        | SoakData
        | RecipeList
        | SettingsData
        | TuneData
        | TraceData
        | TraceFiles
        | NoData
    ) = field(default_factory=NoData)
    notes: tuple[str, ...] = ()
    schema: str = SCHEMA
