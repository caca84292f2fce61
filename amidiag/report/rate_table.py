"""Measured growth of a live process, for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from amidiag.model import Envelope, RateData
from amidiag.report.fd_table import findings, heading
from amidiag.report.series_table import driver_words, series_table, time_left
from amidiag.report.words import count, duration


def rate_report(report: Envelope, data: RateData) -> Iterator[RenderableType]:
    """Heading, one row per resource, what growth follows, findings and notes."""
    yield heading(report.processes[0])
    polls = data.polls
    seen = "no status page: cycles cannot be seen" if polls is None else f"{count(polls)} polls seen"
    yield Text(f"watched for {duration(data.seconds)}, {count(data.samples)} samples, {seen}")
    yield series_table(report.series, "poll")
    for entry in report.series:
        if entry.verdict in ("leak", "growing") and entry.driver:
            tail = f"; {time_left(entry)} at the pace seen" if entry.exhausts else ""
            yield Text(f"   {entry.resource}: driver: {driver_words(entry)}{tail}", style="bold")
    if any(entry.verdict == "growing" for entry in report.series):
        yield Text("   rising is not yet a leak: to tell, reproduce it with `amidiag soak`", style="dim")
    yield from findings(report.findings)
    for note in report.notes:
        yield Text(f"note: {note}", style="dim")
