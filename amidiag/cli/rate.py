"""`amidiag rate`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import click

from amidiag.cli.door import Json, envelope, err, out, print_json, stderr
from amidiag.cli.options import Argument, Option
from amidiag.model import ExitCode, RateData

if TYPE_CHECKING:
    from amidiag.diagnosis.context import Context

NAME = "rate"
EXAMPLES = """\b
Examples:
  amidiag rate 4711                 watch for 30 seconds
  amidiag rate 4711 --for 10m       a slow leak needs longer
  amidiag rate 4711 --for 2m --json | jq '.series[] | select(.verdict == "leak")'
Reads /proc and the worker's status page only; nothing is stopped and nothing written.
Exit codes: 0 FDs certified flat and nothing rising, 1 a leak, 3 cannot observe, 4 rising or undecided."""

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|)")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(text: str) -> float:
    match = _SPAN.fullmatch(text)
    # So many digits that they are no number any more are infinite.
    if match is None or not 0 < float(match[1]) < math.inf:
        raise click.BadParameter(f"{text!r} is no time: write 45s, 10m or 2h")
    return float(match[1]) * _UNITS[match[2]]


def _finite(value: float | None) -> float | None:
    # The `min` of an option lets NaN pass, and infinity.
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no number of seconds")
    return value


def command(
    pid: Annotated[int, Argument(min=1, help="The process to watch, with its tree.")],
    span: Annotated[str, Option("--for", help="How long to watch: 45s, 10m, 2h.")] = "30s",
    interval: Annotated[
        float | None,
        Option(
            min=0.01,
            callback=_finite,
            help="Seconds between observations; chosen by their cost if left out.",
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Measure how fast a process's FDs, threads, children and memory grow, per poll, loader, batch or second."""
    from amidiag.attach.grown import grown, now
    from amidiag.attach.status import StatusReader
    from amidiag.diagnosis.context import Context
    from amidiag.diagnosis.diagnose import diagnose
    from amidiag.procfs.identity import identify
    from amidiag.procfs.observe import observe_tree
    from amidiag.series.live import judge_live, watch

    seconds = _seconds(span)
    identity, status, began = identify(pid), StatusReader(), now()
    recording, ended = watch(
        identity,
        lambda who, full: observe_tree(who, peers=full, shm=full, status_reader=status),
        seconds=seconds,
        interval=interval,
        listener=_Progress(seconds),
    )
    result = judge_live(recording)
    root = result.last.processes[0]
    settings = root.status.settings if root.status else {}
    context = Context(root, result.series, settings, trace=grown(identity, began))
    findings = diagnose(context)
    code = exit_code({s.resource: s.verdict for s in result.series}, found=bool(findings))
    why: tuple[str, ...] = ()
    if ended is not None:
        # What it did before is shown; only a leak that was proven outweighs that it can be observed no more.
        code = code if code == ExitCode.FINDING else ExitCode.CANNOT_OBSERVE
        why = (f"{ended} It was watched for {result.seconds:.0f} s, and what was seen until then is judged.",)
    data = RateData(result.seconds, result.samples, result.cycles)
    report = envelope(
        NAME,
        code,
        processes=(root,),
        tree=result.last.tree,
        series=result.series,
        findings=findings,
        data=data,
        notes=(*why, *result.last.notes, *result.reasons, *(() if findings else _rising(context))),
    )
    if as_json:
        print_json(report)
    else:
        from amidiag.report.rate_table import rate_report

        for part in rate_report(report, data):
            out().print(part)
    for line in why:
        stderr().write(f"amidiag: {line}\n")
    return code


def _rising(context: Context) -> Iterator[str]:
    """From where most of what rises was made, where that is traced and no finding says it."""
    from amidiag.report.call_chain import call_site_lines

    for series in context.series:
        sites = context.call_sites(series.resource) if series.verdict == "growing" else ()
        if sites and series.resource in ("fd", "shm.held", "threads", "children"):
            lines = " ".join(call_site_lines(sites[:1]))
            yield f"{series.resource}: of what was made meanwhile and is there still, {' '.join(lines.split())}"


def exit_code(verdicts: Mapping[str, str], *, found: bool) -> int:
    """From the verdict of each resource, and whether there are findings.

    Memory takes longer to certify than a person waits, so flat is said of FDs; but nothing may be rising.
    """
    if found or "leak" in verdicts.values():
        return ExitCode.FINDING
    flat = verdicts.get("fd") == "stable" and "growing" not in verdicts.values()
    return ExitCode.CLEAN if flat else ExitCode.UNDECIDED


class _Progress:
    """A line on standard error that is rewritten on a terminal, and now and then elsewhere."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.console = err()
        self.next = 0.0

    def __call__(self, gone: float, fds: int) -> None:
        last = gone >= self.seconds
        if self.console.is_terminal:
            end = "\n" if last else ""
            stderr().write(f"\r{gone:6.1f} of {self.seconds:.0f} s, {fds:,} FDs {end}")
        elif gone >= self.next or last:
            self.next = gone + 10
            stderr().write(f"{gone:.0f} of {self.seconds:.0f} s, {fds:,} FDs\n")
