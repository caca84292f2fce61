"""What systemd is told: by a real datagram socket, of the notifier alone and of a real worker."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from worker_rig import LIMIT_S, Running, ended, job, traps

from amidiag.soak.antenna import AntennaServer, ImageSpec
from worker.systemd import Notifier

Start = Callable[..., Running]


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.name = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.told: list[str] = []

    def hear(self) -> list[str]:
        """All that was said until now."""
        self._socket.setblocking(False)
        while True:
            try:
                self.told.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self.told

    def wait_for(self, start: str) -> str:
        """The first message that begins so."""
        limit = time.monotonic() + LIMIT_S
        while time.monotonic() < limit:
            for message in self.hear():
                if message.startswith(start):
                    return message
            time.sleep(0.02)
        raise AssertionError(f"{start} was never said, but {self.told}")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@amidiag-test-{os.getpid()}"
    listening = Systemd(address)
    yield listening
    listening.close()


def test_what_is_said_arrives_and_no_child_can_say_it(systemd: Systemd) -> None:
    environ = {"NOTIFY_SOCKET": systemd.name, "WATCHDOG_USEC": "30000000", "OTHER": "1"}
    notifier = Notifier(environ=environ)
    assert environ == {"OTHER": "1"}
    notifier.alive()
    notifier.ready()
    notifier.alive()
    notifier.status("job 1\nof two lines")
    notifier.status("job 1 of two lines")
    notifier.stopping()
    notifier.stopping()
    assert systemd.hear() == [
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=60000000",  # a start that takes long
        "READY=1",
        "STATUS=job 1 of two lines",
        "STOPPING=1",
    ]


def test_the_watchdog_is_fed_as_often_as_it_wants(systemd: Systemd) -> None:
    notifier = Notifier(environ={"NOTIFY_SOCKET": systemd.name, "WATCHDOG_USEC": "300000"})
    notifier.ready()
    end = time.monotonic() + 1
    while time.monotonic() < end:
        notifier.alive()
        time.sleep(0.001)
    # At least at half of the interval where this machine has the time, and not a thousand times.
    assert 2 <= systemd.hear().count("WATCHDOG=1") <= 11


def test_a_watchdog_for_another_process_is_left_to_it(systemd: Systemd) -> None:
    environ = {"NOTIFY_SOCKET": systemd.name, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}
    notifier = Notifier(environ=environ)
    notifier.ready()
    notifier.alive()
    assert systemd.hear() == ["READY=1"]
    assert "WATCHDOG_PID" not in environ


def test_a_drain_asks_for_more_time(systemd: Systemd) -> None:
    told = []
    notifier = Notifier(lambda: bool(told), environ={"NOTIFY_SOCKET": systemd.name})
    notifier.ready()
    notifier.alive()
    told.append("SIGTERM")
    notifier.alive()
    notifier.alive()
    assert systemd.hear() == ["READY=1", "STOPPING=1", "EXTEND_TIMEOUT_USEC=60000000"]


@pytest.mark.parametrize("address", ["", "nonsense", "/nowhere/at/all", "@nobody-listens-here"])
def test_nobody_listens(address: str, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier(environ={"NOTIFY_SOCKET": address})
    for say in (notifier.ready, notifier.alive, notifier.stopping):
        say()
    notifier.status("x")
    assert ("nonsense" in caplog.text) == (address == "nonsense")


def test_a_full_queue_does_not_block(tmp_path: Path) -> None:
    listening = Systemd(str(tmp_path / "notify"))
    notifier = Notifier(environ={"NOTIFY_SOCKET": listening.name})
    for number in range(5000):
        notifier.status(str(number))
    assert 0 < len(listening.hear()) < 5000
    listening.close()


def test_a_worker_tells_what_it_does(server: AntennaServer, start: Start, tmp_path: Path) -> None:
    systemd = Systemd(str(tmp_path / "notify"))
    server.hold_polls()
    server.add_job(job(*(ImageSpec(trap) for trap in traps(3))))
    process = start("run", server=server, NOTIFY_SOCKET=systemd.name, WATCHDOG_USEC=2_000_000)
    assert server.wait_poll(LIMIT_S)
    # Before the first poll is answered: the service is up, whatever the server says.
    assert "READY=1" in systemd.hear()
    server.free_polls()
    assert "job 1 (moth_binary)" in systemd.wait_for("STATUS=job 1")
    systemd.wait_for("STATUS=waiting for jobs")
    systemd.wait_for("WATCHDOG=1")
    process.send_signal(signal.SIGTERM)
    code, _, _ = ended(process)
    assert code == 0
    assert systemd.hear().count("STOPPING=1") == 1
    systemd.close()


def test_of_several_workers_the_parent_tells_it(server: AntennaServer, start: Start, tmp_path: Path) -> None:
    systemd = Systemd(str(tmp_path / "notify"))
    process = start(
        "run", server=server, NOTIFY_SOCKET=systemd.name, WATCHDOG_USEC=2_000_000, AMI_INSTANCES=2
    )
    assert "2 workers: " in systemd.wait_for("STATUS=")
    systemd.wait_for("WATCHDOG=1")
    process.send_signal(signal.SIGTERM)
    systemd.wait_for("STOPPING=1")
    assert ended(process)[0] == 0
    # Neither of the two below it has said anything.
    assert [message for message in systemd.hear() if message == "READY=1"] == ["READY=1"]
    systemd.close()
