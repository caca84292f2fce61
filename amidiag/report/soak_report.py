"""What a soak showed, for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from amidiag.model import ExitCode
from amidiag.report.fd_table import findings
from amidiag.report.series_table import STYLE, driver_words, rate_words, series_table, time_left
from amidiag.report.words import amount, count, duration
from amidiag.soak.experiment import PRODUCTION_POLL_S, ArmResult, Result


def soak_report(result: Result) -> Iterator[RenderableType]:
    """What was armed, then arm by arm: verdict, judged resources, answers, findings; then what it all says."""
    faults = dict.fromkeys(
        f"fault {name}: {text}" for arm in result.arms for name, text in arm.outcome.faults.items()
    )
    for line in faults:
        yield Text(line, style="dim")
    for number, arm in enumerate(result.arms, 1):
        yield from _arm(number, arm)
    yield from _conclusion(result)


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
        yield series_table(arm.series, "poll")
    yield from _answers(arm)
    yield from findings(arm.findings)


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
        text.append("LEAK: " if entry.verdict == "leak" else "GROWING: ", style=STYLE[entry.verdict])
        text.append(
            f"{amount(first, entry.resource)} → {amount(last, entry.resource)} FDs, {rate_words(entry)}"
        )
        if entry.driver:
            text.append(f"; driver: {driver_words(entry)}")
        if entry.exhausts:
            text.append(f"; {time_left(entry)} at production pace")
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
    if answers.quality is not None and answers.quality.precision is not None:
        s = answers.quality
        yield Text(
            f"   detections at IoU 0.5: precision {_share(s.precision)}, recall {_share(s.recall)}, kind right "
            f"{_share(s.kind_accuracy)} ({count(s.planted)} insects planted, {count(s.found)} found)"
        )


def _share(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"


def _conclusion(result: Result) -> Iterator[Text]:
    yield Text("")
    if any(arm.outcome.arm.stop != "load" for arm in result.arms):
        yield Text(
            f"Time is compressed: an idle worker in production polls every {PRODUCTION_POLL_S:.0f} s. Growth that "
            "follows the clock instead of polls, loaders or batches is not shown by this.",
            style="dim",
        )
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
