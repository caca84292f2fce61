"""What a diagnosis is made from: one tree, its judged series, and what is known of the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from amidiag.model import CallSite, ProcessObservation, SeriesReport

if TYPE_CHECKING:
    from amidiag.attach.call_sites import TraceReading


@dataclass(frozen=True, slots=True)
class Context:
    """Evidence for one worker.

    `settings` are the worker's effective settings as it publishes them, `asked` those that whoever
    started it has set (only a soak knows them), `simulated` says in words
    which faults a soak had armed. `trace` is what its call-site table says of what grew, None where
    the program is not traced.
    """

    process: ProcessObservation
    series: tuple[SeriesReport, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)
    simulated: Mapping[str, str] = field(default_factory=dict)
    trace: TraceReading | None = None

    def leaking(self, resource: str) -> SeriesReport | None:
        """The series of `resource` if it is proven to leak."""
        for series in self.series:
            if series.resource == resource and series.verdict == "leak":
                return series
        return None

    def setting(self, name: str) -> str | None:
        """The effective value of a setting as text, lower case; None where the worker does not say."""
        value = self.settings.get(name)
        return None if value is None else str(value).lower()

    def call_sites(self, resource: str | None) -> tuple[CallSite, ...]:
        """From where what is open of `resource` was made, most first; empty where that was not traced."""
        if self.trace is None or resource is None:
            return ()
        # Not above: `fds` takes a state of one process from this room, and has no use for call sites.
        from amidiag.attach.grouping import call_sites

        return call_sites(self.trace, resource)
