"""What became of the tasks of a soak: answered once, lost, and how good the detections are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from amidiag.model import Answered, Quality
from amidiag.soak.antenna import AntennaServer
from amidiag.soak.traps import truth
from amidiag.soak.traps.score import score


def check_answers(server: AntennaServer, job_ids: Iterable[int]) -> Answered:
    """Ask the server what came back for each image of the jobs, and compare it with the truth."""
    answers = [answer for job_id in job_ids for answer in server.answers(job_id)]
    answered = [answer for answer in answers if answer.result is not None]
    errors = [answer for answer in answered if "error" in (answer.result or {})]
    broken_errors = sum(answer.spec.broken is not None for answer in errors)
    # An intact image that came back as an error was not looked at: its insects were missed.
    reached = score((truth(a.spec), (a.result or {}).get("detections", ())) for a in answered)
    state = server.state([])
    return Answered(
        tasks=len(answers),
        answered_once=sum(answer.times == 1 for answer in answers),
        answered_twice=sum(answer.times > 1 for answer in answers),
        lost=state.lost,
        unanswered=sum(answer.times == 0 for answer in answers),
        errors=len(errors),
        broken=sum(answer.spec.broken is not None for answer in answers),
        broken_answered_as_result=sum(a.spec.broken is not None for a in answered) - broken_errors,
        intact_answered_as_error=len(errors) - broken_errors,
        redelivered=state.redelivered,
        quality=Quality(**asdict(reached)) if reached.planted or reached.found else None,
    )
