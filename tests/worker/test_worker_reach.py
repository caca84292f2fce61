"""A server out of reach: each cause said once, how long and how often, and how long to wait for the next try."""

from __future__ import annotations

import logging
import re
import socket
import time
from collections.abc import Callable

import pytest
from scripted_server import ScriptedServer, answer
from worker_rig import Running, ended, job, traps

from amidiag.soak.antenna import AntennaServer, FaultSpec
from amidiag.target.status_page import StatusPage
from worker.antenna.schemas import BadAnswerError, UnavailableError
from worker.loop import Worker
from worker.reach import ADDRESS_HINT, Reach, UnreachableError

DNS = UnavailableError("GET /jobs: gaierror: [Errno -3] Temporary failure in name resolution")
TLS = UnavailableError("GET /jobs: SSLCertVerificationError: certificate has expired")
GATEWAY = UnavailableError("GET /jobs: 502 Bad Gateway", status=502)


def test_causes_that_alternate_are_said_once_each_until_the_server_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    reach = Reach(600)
    for _ in range(20):
        for error in (DNS, TLS, GATEWAY):
            reach.failed(error)
    said = [record.getMessage() for record in caplog.records]
    assert [next(e for e in (DNS, TLS, GATEWAY) if str(e) in line) for line in said] == [DNS, TLS, GATEWAY]
    assert reach.failures == 60
    reach.answered()
    assert caplog.records[-1].getMessage() == "the server answers again, after 0 s and 60 failed polls"
    reach.failed(DNS)
    assert str(DNS) in caplog.records[-1].getMessage()
    assert reach.failures == 1


def test_an_address_in_memory_makes_no_new_cause_and_no_server_can_flood_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reach = Reach(600)
    for at in range(50):
        reach.failed(UnavailableError(f"GET /jobs: <Connection object at 0x7f{at:04x}>: closed"))
    assert len(caplog.records) == 1
    for at in range(50):
        reach.failed(UnavailableError(f"GET /jobs: 503 number {at}"))
    assert len(caplog.records) == 8
    assert reach.failures == 100
    assert "43 × other causes" in str(reach.unreachable())


def test_the_end_says_how_long_how_often_and_why() -> None:
    reach = Reach(0.3)
    reach.failed(TLS)
    reach.failed(DNS)
    reach.failed(DNS)
    time.sleep(0.3)
    with pytest.raises(UnreachableError) as raised:
        reach.failed(BadAnswerError("GET /jobs: 404 Not Found"))
    assert re.fullmatch(
        r"no usable answer for 0\.\d s in 4 polls: GET /jobs: 404 Not Found: "
        rf"{re.escape(ADDRESS_HINT)} \(all: 2 × {re.escape(str(DNS))}; .*1 × .*\)",
        str(raised.value),
    ), raised.value
    assert str(Reach(1).unreachable()) == "no usable answer: "


def test_the_pause_is_as_wanted_or_as_the_server_asks_and_never_past_the_limit() -> None:
    reach = Reach(100)
    assert reach.pause(5) == 5
    reach.failed(GATEWAY)
    assert reach.pause(5) == 5
    reach.failed(UnavailableError("GET /jobs: 429 Too Many Requests", retry_after_s=30, status=429))
    assert 29 < reach.pause(5) <= 30
    assert reach.pause(40) == 40
    reach.failed(UnavailableError("GET /jobs: 429 Too Many Requests", retry_after_s=1000, status=429))
    assert 99 < reach.pause(5) <= 100
    reach.answered()
    assert reach.pause(5) == 5


def test_a_worker_whose_polls_fail_in_turns_says_each_cause_once_and_ends_with_69(
    server: AntennaServer, start: Callable[..., Running]
) -> None:
    server.fault(FaultSpec("503", on=("jobs",)))
    process = start("run", server=server, AMI_ANTENNA_UNREACHABLE_LIMIT_S=2)
    limit = time.monotonic() + 30
    while server.state().faults.get("503", 0) < 3:
        assert time.monotonic() < limit
        time.sleep(0.02)
    server.stop()
    code, _, err = ended(process)
    assert code == 69
    warnings = [line for line in err.splitlines() if "no usable answer, trying again" in line]
    assert len(warnings) == len({line.split("WARNING")[1] for line in warnings})
    assert "503" in warnings[0]
    (last,) = (line for line in err.splitlines() if "ERROR" in line)
    assert re.search(r"no usable answer for [2-4]\.\d s in \d+ polls: .*\(all: .*503", last), last


def test_a_server_that_lists_jobs_and_hands_out_no_task_is_out_of_reach_too(
    server: AntennaServer, start: Callable[..., Running]
) -> None:
    for _ in range(3):
        server.add_job(job(*traps(2)))
    server.fault(FaultSpec("503", on=("tasks",)))
    code, _, err = ended(start("run", server=server, AMI_ANTENNA_UNREACHABLE_LIMIT_S=1))
    assert code == 69
    # Of three jobs, and once for all of them.
    assert err.count("no more tasks could be taken, trying again") == 1
    (last,) = (line for line in err.splitlines() if "ERROR" in line)
    assert re.search(
        r"no more tasks could be taken for \d\.\d s in \d+ visits: POST /jobs/\d+/tasks/: 503", last
    )
    assert server.state().waiting == 6


def test_a_failure_with_one_job_is_over_when_no_job_is_left(
    worker: Callable[..., Worker], page: StatusPage
) -> None:
    """Hours may lie between it and the next one, without a job."""
    one = answer(body=b'{"results": [{"id": 1, "pipeline_slug": "moth_binary"}]}')
    none, down = answer(body=b'{"results": []}'), answer("500 Internal Server Error", b"")

    def later(sock: socket.socket) -> bool:
        time.sleep(0.5)
        return none(sock)

    with ScriptedServer(one, down, later, one, down, later) as server:
        worker(server, AMI_ANTENNA_UNREACHABLE_LIMIT_S=0.4).run(max_polls=4)
        said = page.read()
        assert said is not None
        assert said["health"]["ok"], said["health"]
        assert len(server.requests) == 6
