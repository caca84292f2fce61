"""What a soak showed, for people."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from amidiag.model import ExitCode, SeriesReport
from amidiag.report.fd_table import findings
from amidiag.report.series_table import STYLE, driver_words, rate_words, series_table, time_left
from amidiag.report.words import amount, count, duration
from amidiag.soak.experiment import IDLE_POLL_S, ArmResult, Result

_WORD = {"leak": "LEAK", "growing": "GROWING", "stable": "FLAT", "undecided": "UNDECIDED"}

_OUTCOME = {"failed": "bold red", "undecided": "yellow", "passed": "green"}


def soak_report(result: Result) -> Iterator[RenderableType]:
    """What was armed, then arm by arm: verdict, judged resources, answers, findings; then what it all says."""
    yield from armed(result)
    for number, arm in enumerate(result.arms, 1):
        yield from _arm(number, arm)
    yield from _conclusion(result)


def armed(result: Result) -> Iterator[Text]:
    """What the launcher says of each fault, once."""
    said = (f"fault {name}: {text}" for arm in result.arms for name, text in arm.outcome.faults.items())
    for line in dict.fromkeys(said):
        yield Text(line, style="dim")


def _arm(number: int, arm: ArmResult) -> Iterator[RenderableType]:
    outcome = arm.outcome
    cycles = max(0, outcome.recording.observations - 1)
    title = Text(f"\n{number}. {outcome.arm.name}", style="bold")
    title.append(f": {count(cycles)} polls in {duration(outcome.seconds)}", style="not bold")
    if outcome.arm.stop != "load":
        title.append(f", {arm.compression:.0f} times as fast as an idle worker polls", style="not bold")
    yield title
    yield from _sentences(arm)
    if arm.series:
        yield series_table(arm.series, "poll", asked=outcome.arm.resource)
    yield from _flat(arm)
    yield from _answers(arm)
    yield from findings(arm.findings)
    for note in arm.notes:
        yield Text(f"   note: {note}", style="dim")


def _sentences(arm: ArmResult) -> Iterator[Text]:
    """The verdict on the arm's own resource, in words."""
    outcome = arm.outcome
    entry = next((s for s in arm.series if s.resource == outcome.arm.resource), None)
    if entry is None:
        return
    values = [v for v in outcome.recording.values(entry.resource) if not math.isnan(v)]
    text = Text("   ")
    text.append(f"{_WORD[entry.verdict]}: ", style=STYLE[entry.verdict])
    if values:
        text.append(f"{entry.resource} {_span(values, entry)}")
    if entry.verdict in ("leak", "growing"):
        text.append(f", {rate_words(entry)}; driver: {driver_words(entry)}")
        if entry.exhausts:
            text.append(f"; {time_left(entry)} at one poll every {IDLE_POLL_S:.0f} s")
    if entry.samples_needed:
        text.append(f"; needs {count(entry.samples_needed)} more polls")
    if outcome.certified and entry.verdict == "stable" and outcome.certificate is not None:
        bound = outcome.certificate
        text.append(
            f" over {count(bound.cycles)} polls; certified: fewer than 1 leak event in "
            f"{1 / bound.events_per_cycle_bound:.0f} polls ({bound.confidence:.0%} confidence)"
        )
    yield text


def _flat(arm: ArmResult) -> Iterator[Text]:
    """What was demanded of each resource, and whether it was met."""
    for check in arm.flat:
        yield Text("   ").append(check.outcome, style=_OUTCOME[check.outcome]).append(f" {check.text}")


def _span(values: list[float], entry: SeriesReport) -> str:
    """Where a series went: from here to there if it rises, else between which values it stayed."""
    if entry.verdict in ("leak", "growing"):
        return f"{amount(values[0], entry.resource)} → {amount(values[-1], entry.resource)}"
    low, high = amount(min(values), entry.resource), amount(max(values), entry.resource)
    return low if low == high else f"between {low} and {high}"


def _answers(arm: ArmResult) -> Iterator[Text]:
    a = arm.outcome.answers
    last = arm.outcome.recording.last
    status = last.processes[0].status if last else None
    if status is not None:
        c = status.counters
        yield Text(
            f"   worker: {count(c.polls)} polls, {count(c.loaders)} loaders, {count(c.jobs)} jobs with tasks, "
            f"{count(c.batches)} batches, {count(c.images)} images, {count(c.posts)} posts"
        )
    if not a.tasks:
        yield Text("   tasks: none handed out, zero images processed")
        return
    yield Text(
        f"   tasks: {count(a.tasks)}; answered once {count(a.answered_once)}, twice {count(a.answered_twice)}, "
        f"unanswered {count(a.unanswered)}, lost {count(a.lost)}, redelivered {count(a.redelivered)}"
    )
    if a.errors or a.broken:
        yield Text(
            f"   answered as errors: {count(a.errors - a.intact_answered_as_error)} of {count(a.broken)} broken "
            f"images, {count(a.intact_answered_as_error)} intact ones"
        )
    if a.quality is not None:
        q = a.quality
        yield Text(
            f"   detections at IoU 0.5: precision {_share(q.precision)}, recall {_share(q.recall)}, kind right "
            f"{_share(q.kind_accuracy)} ({count(q.planted)} insects planted, {count(q.found)} found)"
        )


def _share(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"


def answer(result: Result) -> Iterator[Text]:
    """The recipe's answer to its question, or that it is open."""
    if result.answer is not None:
        yield Text("Answer: ", style="bold").append(result.answer, style="not bold")
    elif result.recipe.answers:
        yield Text("The question of this recipe is not answered yet: the verdicts do not bear an answer out.")


def _conclusion(result: Result) -> Iterator[Text]:
    yield Text("")
    if any(arm.outcome.arm.stop != "load" for arm in result.arms):
        yield Text(
            f"Time is compressed: an idle worker in production polls every {IDLE_POLL_S:.0f} s. Growth that "
            "follows the clock instead of polls, loaders or batches is not shown by this.",
            style="dim",
        )
    yield from answer(result)
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
        text = "Shown as expected: " + "; ".join(
            f"“{a.outcome.arm.name}” {a.outcome.arm.expect}" for a in expected
        )
    missed = [a for a in expected if not a.shown]
    if missed:
        text = "Not shown: " + "; ".join(
            f"“{a.outcome.arm.name}” expected {a.outcome.arm.expect}, found {a.outcome.verdict.kind}"
            + (" without its certificate" if a.outcome.lacks_certificate else "")
            for a in missed
        )
    yield Text(text, style=style)
