"""Findings from judged series: what is named, what must stay silent, what is never hidden behind another."""

from dataclasses import replace

import pytest

from amidiag.diagnosis.context import Context
from amidiag.diagnosis.diagnose import diagnose
from amidiag.model import FdTable, MemoryUse, PeerCounts, ProcessObservation, Rate, SeriesReport, ShmUse

PERSISTENT = "AMI_ANTENNA_API_DATALOADER_PERSISTENT_WORKERS"
PIN = "AMI_ANTENNA_API_DATALOADER_PIN_MEMORY"
AVOID = "AMI_AVOID_TORCH_ATEXIT_LEAK"
LIFETIME = "AMI_ANTENNA_API_DATALOADER_LIFETIME"
PROCESS = ProcessObservation(
    pid=7,
    start_ticks=1,
    started_at="2026-01-01T00:00:00+00:00",
    name="ami",
    role="worker",
    parent_pid=1,
    threads=1,
    fds=FdTable(open=100, soft_limit=1024, hard_limit=1024, by_type=None, peers=None),
    memory=MemoryUse(None, None, None, None),
    shm=ShmUse(None, None, None),
    status=None,
)


def series(resource: str, verdict: str = "leak", per: str = "loaders", rate: float = 2.0) -> SeriesReport:
    return SeriesReport(
        pid=7,
        resource=resource,
        verdict=verdict,  # type: ignore[arg-type]
        driver=per,
        cycles=250,
        rate=Rate(per, rate, rate * 0.99, rate * 1.01),
        upper_bound=None,
        samples_needed=None,
        exhausts=None,
    )


PIPES = (series("fd"), series("fd.pipe"), series("fd.pipe.nobody"))
SETTINGS = {PERSISTENT: True, PIN: True, "AMI_NUM_WORKERS": 1}


def codes(*entries: SeriesReport, **context: object) -> list[str]:
    return [f.code for f in diagnose(Context(PROCESS, entries, **context))]  # type: ignore[arg-type]


def test_orphaned_sentinel_pipes_are_one_finding() -> None:
    (finding,) = diagnose(Context(PROCESS, PIPES, SETTINGS))
    assert finding.code == "FD101"
    assert [m.setting for m in finding.mitigations if m.dialect == "ami"] == [
        PERSISTENT,
        AVOID,
        LIFETIME,
        PIN,
    ]
    assert any("nobody" in line for line in finding.evidence)


def test_live_the_pipes_may_tell_the_driver() -> None:
    assert codes(
        series("fd"), series("fd.pipe"), series("fd.pipe.nobody", per="polls"), settings=SETTINGS
    ) == ["FD101"]


def test_live_the_peers_may_be_known_only_now() -> None:
    peers = {"pipe": PeerCounts(nobody=90, tree=4)}
    process = replace(PROCESS, fds=replace(PROCESS.fds, by_type={"pipe": 94}, peers=peers))
    found = diagnose(Context(process, PIPES[:2], SETTINGS))
    assert [f.code for f in found] == ["FD101"]
    assert "nobody holds the opposite end of 90 of its 94 pipe ends now" in found[0].evidence[1]
    held = replace(
        PROCESS, fds=replace(PROCESS.fds, by_type={"pipe": 94}, peers={"pipe": PeerCounts(tree=94)})
    )
    assert [f.code for f in diagnose(Context(held, PIPES[:2], SETTINGS))] == ["FD100"]


def test_without_settings_it_is_still_named() -> None:
    assert codes(*PIPES) == ["FD101"]
    assert codes(*(series(s.resource, rate=4.0) for s in PIPES)) == ["FD101"]


@pytest.mark.parametrize(
    ("entries", "settings"),
    [
        (PIPES, {**SETTINGS, PERSISTENT: False}),
        (PIPES, {**SETTINGS, PIN: False}),
        (PIPES, {**SETTINGS, "AMI_NUM_WORKERS": 2}),
        (tuple(series(s.resource, rate=1.5) for s in PIPES), SETTINGS),
        (tuple(series(s.resource, per="batches") for s in PIPES), SETTINGS),
        ((series("fd"), series("fd.pipe"), series("fd.pipe.self")), SETTINGS),
    ],
)
def test_what_does_not_fit_is_growth_without_a_known_cause(entries, settings) -> None:
    assert codes(*entries, settings=settings) == ["FD100"]


def test_a_second_leak_is_not_hidden_behind_the_first() -> None:
    found = diagnose(Context(PROCESS, (*PIPES, series("fd.socket", rate=1.0)), SETTINGS))
    assert [f.code for f in found] == ["FD101", "FD100"]
    assert found[1].evidence[-1] == "the growth is in fd.socket"
    assert codes(*PIPES, series("threads"), settings=SETTINGS) == ["FD101", "PROC100"]


@pytest.mark.parametrize("verdict", ["growing", "stable", "undecided"])
def test_nothing_is_found_in_what_is_not_proven(verdict) -> None:
    assert codes(*(series(s.resource, verdict) for s in PIPES), settings=SETTINGS) == []


def test_the_limit() -> None:
    full = replace(PROCESS, fds=replace(PROCESS.fds, open=1024))
    (finding,) = diagnose(Context(full, ()))
    assert (finding.code, finding.severity) == ("FD190", "error")
    near = replace(PROCESS, fds=replace(PROCESS.fds, open=950))
    assert diagnose(Context(near, ()))[0].severity == "warning"
    assert diagnose(Context(PROCESS, ())) == ()


def test_a_setting_that_nobody_reads() -> None:
    asked = {"AMI_NUM_WORKERS": "1", "AMI_NUM_WORKER": "2", "AMI_ANTENNA_API_AUTH_TOKEN": "x", "PATH": "y"}
    (finding,) = diagnose(Context(PROCESS, (), SETTINGS, asked=asked))
    assert (finding.code, finding.severity) == ("CFG100", "warning")
    assert finding.evidence == ("AMI_NUM_WORKER: did you mean AMI_NUM_WORKERS?",)
    assert diagnose(Context(PROCESS, (), {}, asked=asked)) == ()
