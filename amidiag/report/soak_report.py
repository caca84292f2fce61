"""What a soak showed, for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from amidiag.model import ExitCode, SeriesReport
from amidiag.report.fd_table import findings
from amidiag.report.words import amount, count, duration, rate
from amidiag.soak.experiment import PRODUCTION_POLL_S, ArmResult, Result

_STYLE = {"leak": "bold red", "growing": "yellow", "stable": "green", "undecided": "dim"}


def soak_report(result: Result) -> Iterator[RenderableType]:
    """Arm by arm: judged resources, what was answered, findings; then what it all says."""
    for number, arm in enumerate(result.arms, 1):
        yield from _arm(result, number, arm)
    yield from _conclusion(result)


def _arm(result: Result, number: int, arm: ArmResult) -> Iterator[RenderableType]:
    outcome = arm.outcome
    cycles = max(0, outcome.recording.observations - 1)
    yield Text(f"\n{number}. {outcome.arm.name}", style="bold").append(
        f": {count(cycles)} polls in {duration(outcome.seconds)}", style="not bold"
    )
    if outcome.arm.stop != "load":
        yield Text(
            f"   time compressed {arm.compression:.0f}-fold: an idle worker in production polls every "
            f"{PRODUCTION_POLL_S:.0f} s; slow growth that follows the clock is not shown by this",
            style="dim",
        )
    for name, text in outcome.faults.items():
        yield Text(f"   fault {name}: {text}", style="dim")
    if arm.series:
        yield _series_table(arm.series)
    yield from _sentences(arm)
    yield from _answers(arm)
    yield from findings(arm.findings)


def _series_table(series: tuple[SeriesReport, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 3))
    for name, justify in (("resource", "left"), ("verdict", "left"), ("rate [95 % interval]", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("what it says")
    for entry in series:
        table.add_row(entry.resource, Text(entry.verdict, _STYLE[entry.verdict]), _rate(entry), _tail(entry))
    return table


def _rate(entry: SeriesReport) -> str:
    if entry.rate is None:
        return ""
    if entry.verdict in ("stable", "undecided") and entry.rate.low <= 0 <= entry.rate.high:
        return ""
    interval = f"[{rate(entry.rate.low, entry.resource)}, {rate(entry.rate.high, entry.resource)}]"
    return f"{rate(entry.rate.value, entry.resource)} per {_singular(entry.rate.per)} {interval}"


def _tail(entry: SeriesReport) -> str:
    if entry.verdict == "stable" and entry.upper_bound is not None:
        return f"less than {rate(entry.upper_bound, entry.resource)} per poll"
    if entry.exhausts is not None:
        return _time_left(entry)
    if entry.samples_needed:
        return f"needs {count(entry.samples_needed)} more polls"
    return ""


def _time_left(entry: SeriesReport) -> str:
    left = entry.exhausts
    if left is None:
        return ""
    name = "EMFILE" if left.limit == "nofile" else left.limit
    if left.low is None or left.high is None:
        return f"{name} in {duration(left.in_seconds)}"
    return f"{name} in {duration(left.in_seconds)} [{duration(left.low)} to {duration(left.high)}]"


def _singular(per: str) -> str:
    return {"cycles": "poll", "seconds": "second", "batches": "batch"}.get(per, per.rstrip("s"))


def _sentences(arm: ArmResult) -> Iterator[Text]:
    """The verdict on the arm's own resource, in words."""
    outcome = arm.outcome
    entry = next((s for s in arm.series if s.resource == outcome.arm.resource), None)
    if entry is None:
        return
    first = outcome.recording.values(entry.resource)[0]
    last = outcome.recording.values(entry.resource)[-1]
    text = Text("   ")
    if entry.verdict in ("leak", "growing"):
        text.append("LEAK: " if entry.verdict == "leak" else "GROWING: ", style=_STYLE[entry.verdict])
        text.append(f"{amount(first, entry.resource)} → {amount(last, entry.resource)} FDs, {_rate(entry)}")
        if entry.driver:
            text.append(f"; driver: {entry.driver}")
        if entry.exhausts:
            text.append(f"; {_time_left(entry)} at production pace")
        yield text
    elif outcome.certificate is not None:
        bound = outcome.certificate
        text.append("FLAT: ", style="bold green")
        text.append(
            f"{amount(first, entry.resource)} → {amount(last, entry.resource)} FDs over {count(bound.cycles)} polls; "
            f"certified: fewer than 1 leak event in {1 / bound.events_per_cycle_bound:.0f} polls "
            f"({bound.confidence:.0%} confidence)"
        )
        yield text


def _answers(arm: ArmResult) -> Iterator[Text]:
    answers = arm.outcome.answers
    last = arm.outcome.recording.last
    status = last.processes[0].status if last else None
    if status is not None:
        c = status.counters
        yield Text(
            f"   worker: {count(c.polls)} polls, {count(c.loaders)} loaders, {count(c.jobs)} jobs with tasks, "
            f"{count(c.batches)} batches, {count(c.images)} images, {count(c.posts)} posts"
        )
    if not answers.tasks:
        yield Text("   tasks: none handed out, zero images processed")
        return
    yield Text(
        f"   tasks: {count(answers.tasks)}, answered once {count(answers.answered_once)}, twice "
        f"{count(answers.answered_twice)}, unanswered {count(answers.unanswered)}, lost {count(answers.lost)}; "
        f"redelivered {count(answers.redelivered)}; broken images {count(answers.broken)}, of them answered as "
        f"errors {count(answers.broken_answered_as_error)}"
    )
    if answers.score is not None and answers.score.precision is not None:
        s = answers.score
        yield Text(
            f"   detections at IoU 0.5: precision {_share(s.precision)}, recall {_share(s.recall)}, kind right "
            f"{_share(s.kind_accuracy)} ({count(s.planted)} insects planted, {count(s.found)} found)"
        )


def _share(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"


def _conclusion(result: Result) -> Iterator[Text]:
    yield Text("")
    if result.recipe.answers:
        yield Text("Answer: ", style="bold").append(" ".join(result.recipe.answers.split()), style="not bold")
    said = {
        ExitCode.CLEAN: ("Nothing wrong found.", "bold green"),
        ExitCode.FINDING: ("A finding, see above.", "bold red"),
        ExitCode.UNDECIDED: (
            "Undecided: the cycles were not enough, see above for what is needed.",
            "yellow",
        ),
    }
    text, style = said[result.exit_code]
    expected = [arm for arm in result.arms if arm.shown is not None]
    if expected and result.exit_code == ExitCode.CLEAN:
        text = "Shown: " + "; ".join(f"{a.outcome.arm.name}: {a.outcome.arm.expect}" for a in expected) + "."
    elif expected:
        missed = [a for a in expected if not a.shown]
        text = "Not shown: " + "; ".join(
            f"{a.outcome.arm.name}: expected {a.outcome.arm.expect}, found {a.outcome.verdict.kind}"
            for a in missed
        )
    yield Text(text, style=style)
