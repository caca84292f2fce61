"""Judged series for people."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from amidiag.model import SeriesReport
from amidiag.report.words import count, duration, rate

STYLE = {"leak": "bold red", "growing": "yellow", "stable": "green", "undecided": "dim"}
_SINGULAR = {"cycles": "poll", "polls": "poll", "seconds": "second", "batches": "batch"}


def series_table(series: tuple[SeriesReport, ...], sample: str, asked: str | None = None) -> Table:
    """One row per resource, parts of the FD count only where they rise.

    `sample` is what one value stands for; `asked` the resource that the question is about, where there is
    one: only of that is it said how much longer a decision takes.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 3))
    table.add_column("resource")
    table.add_column("verdict")
    table.add_column("rate [95 % interval]")
    table.add_column("what it says")
    for entry in series:
        if entry.resource.startswith("fd.") and entry.verdict in ("stable", "undecided"):
            continue  # a part of the FD count that says no more than the count
        verdict = Text(entry.verdict, STYLE[entry.verdict])
        table.add_row(entry.resource, verdict, rate_words(entry), _what_it_says(entry, sample, asked))
    return table


def rate_words(entry: SeriesReport) -> str:
    """The rate with its interval; nothing where the interval holds zero."""
    if entry.rate is None or (
        entry.verdict in ("stable", "undecided") and entry.rate.low <= 0 <= entry.rate.high
    ):
        return ""
    interval = f"[{rate(entry.rate.low, entry.resource)}, {rate(entry.rate.high, entry.resource)}]"
    per = _SINGULAR.get(entry.rate.per, entry.rate.per.removesuffix("s"))
    return f"{rate(entry.rate.value, entry.resource)} per {per} {interval}"


def driver_words(entry: SeriesReport) -> str:
    """What growth follows, and what the evidence cannot tell apart from it."""
    tied = f" (cannot be told apart from {', '.join(entry.driver_tied)})" if entry.driver_tied else ""
    return f"{entry.driver}{tied}"


def time_left(entry: SeriesReport) -> str:
    """The time to exhaustion with its interval; nothing where none is forecast."""
    left = entry.exhausts
    if left is None:
        return ""
    name = "EMFILE" if left.limit == "nofile" else left.limit
    if left.low is None or left.high is None:
        return f"{name} in {duration(left.in_seconds)}"
    return f"{name} in {duration(left.in_seconds)} [{duration(left.low)} to {duration(left.high)}]"


def _what_it_says(entry: SeriesReport, sample: str, asked: str | None) -> str:
    if entry.verdict == "stable" and entry.upper_bound is not None:
        return f"grows by less than {rate(entry.upper_bound, entry.resource)} per {sample}"
    if entry.exhausts is not None:
        return time_left(entry)
    parts = []
    if entry.upper_bound is not None and entry.verdict == "undecided":
        parts.append(f"so far below {rate(entry.upper_bound, entry.resource)} per {sample}")
    if entry.samples_needed and asked in (None, entry.resource):
        parts.append(f"needs {count(entry.samples_needed)} more {sample}s")
    return ", ".join(parts)
