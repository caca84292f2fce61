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
    pairs = []
    once = twice = unanswered = errors = broken = broken_errors = 0
    tasks = 0
    for job_id in job_ids:
        for _, spec, result, times in server.answers(job_id):
            tasks += 1
            once += times == 1
            twice += times > 1
            unanswered += times == 0
            broken += spec.broken is not None
            if result is None:
                continue
            if "error" in result:
                errors += 1
                broken_errors += spec.broken is not None
            else:
                pairs.append((truth(spec), result["detections"]))
    state = server.state()
    reached = score(pairs)
    return Answered(
        tasks=tasks,
        answered_once=once,
        answered_twice=twice,
        lost=state.lost,
        unanswered=unanswered,
        errors=errors,
        broken=broken,
        broken_answered_as_error=broken_errors,
        intact_answered_as_error=errors - broken_errors,
        redelivered=state.redelivered,
        quality=Quality(**asdict(reached)) if reached.planted or reached.found else None,
    )
