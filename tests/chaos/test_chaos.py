"""Done to a real worker: every fault once, and a job on a server that has nothing but bad moments."""

from __future__ import annotations

from pathlib import Path

import pytest

from amidiag.soak.chaos import day, rounds
from amidiag.soak.chaos.day import Day, Plan
from amidiag.soak.chaos.events import EVENTS
from amidiag.soak.chaos.rounds import Cell, Moment
from amidiag.soak.chaos.strikes import STRIKES


@pytest.mark.timeout(900)
def test_every_fault_of_a_loader_process_costs_no_image(tmp_path: Path) -> None:
    said: list[Moment] = []
    moments = rounds.run(Cell("fork", images=24), list(STRIKES), 6, tmp_path, said.append)

    bad = [moment for moment in moments if not moment.good]
    assert not bad, "\n".join([*map(repr, bad), *(line for moment in bad for line in moment.log)])
    assert [moment.fault for moment in moments] == list(STRIKES)
    assert said == moments
    # Where it never came to the strike nothing was shown.
    assert [moment.fault for moment in moments if not moment.struck] == []


def server_plan() -> Plan:
    """Every fault of the server in an order of its own, close together, a twentieth of their length."""
    planned = day.plan(6, "fork", 12.0, groups=("server",), every_s=0.8, images_per_job=40, stretch=0.05)
    assert {name for _, name in planned.events} == {n for n, e in EVENTS.items() if e.group == "server"}
    return planned


@pytest.mark.timeout(900)
def test_a_server_with_nothing_but_bad_moments_loses_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    became = day.run(server_plan(), tmp_path, said.append)

    assert became.good, "\n".join([*said, *problems(became), *became.log[-60:]])
    assert became.total.lost == became.explained
    assert became.total.images >= 40
    assert became.ends == [0]


def problems(became: Day) -> list[str]:
    return [repr(became.total), *became.unexplained, *became.left]
