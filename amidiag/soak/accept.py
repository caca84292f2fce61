"""Whether a run did the worker's job: what a recipe demands of answers and detections."""

from __future__ import annotations

from amidiag.model import Answered, Finding
from amidiag.soak.recipe import Accept

_COUNTS = (
    "lost",
    "answered_twice",
    "unanswered",
    "broken_answered_as_result",
    "intact_answered_as_error",
)
_SHARES = ("precision", "recall", "kind_accuracy")


def failures(accept: Accept, answers: Answered) -> tuple[Finding, ...]:
    """A finding for tasks that were not answered as they should, one for detections below what is demanded."""
    tasks = [
        f"{name.replace('_', ' ')}: {getattr(answers, name)} of {answers.tasks} tasks, at most {limit} accepted"
        for name in _COUNTS
        if (limit := getattr(accept, name)) is not None and getattr(answers, name) > limit
    ]
    quality = [
        f"{name.replace('_', ' ')}: {'unknown' if reached is None else f'{reached:.3f}'}, at least {least} demanded"
        for name in _SHARES
        if (least := getattr(accept, name)) is not None
        and ((reached := getattr(answers.quality, name, None)) is None or reached < least)
    ]
    found = []
    if tasks:
        found.append(
            _finding("JOB100", "Tasks were not answered once and rightly", "see the worker's log", tasks)
        )
    if quality:
        found.append(
            _finding(
                "JOB101",
                "Detections are worse than the recipe demands",
                "the pipelines or the images",
                quality,
            )
        )
    return tuple(found)


def _finding(code: str, title: str, cause: str, evidence: list[str]) -> Finding:
    return Finding(
        code=code,
        title=title,
        severity="error",
        pid=None,
        resource=None,
        cause=cause,
        evidence=tuple(evidence),
    )
