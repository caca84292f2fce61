"""The server's process: it ends with its controller, whichever way that ends, and never before."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from antenna_client import TIME_LIMIT_S, TOKEN, Worker, address

from amidiag.soak.antenna import AntennaServer, AntennaServerError, JobSpec, ServerConfig

CONTROLLER = """
import os, sys, time
from amidiag.soak.antenna import AntennaServer, ServerConfig
server = AntennaServer(ServerConfig(token="t"))
with server:
    if "fork" in sys.argv and os.fork() == 0:
        time.sleep(60)  # holds the control socket open
    print(server.pid, server.base_url, flush=True)
    if "wait" in sys.argv:
        server.hold_polls()
        server.wait_poll(60)
    time.sleep(60)
"""


class Controller:
    """A process that runs a server, in a session of its own, and its server."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONTROLLER, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        pid, self.base_url = self.process.stdout.readline().split()
        self.server_pid = int(pid)
        self.server = os.pidfd_open(self.server_pid)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        os.close(self.server)


@pytest.fixture
def controllers() -> Iterator[Any]:
    started: list[Controller] = []

    def start(*arguments: str) -> Controller:
        started.append(Controller(*arguments))
        return started[-1]

    yield start
    for controller in started:
        controller.close()


def has_ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], TIME_LIMIT_S)[0])


def port_is_free(port: int) -> bool:
    with socket.socket() as successor:
        successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        successor.bind(("127.0.0.1", port))
        successor.listen()
    return True


def port_of(base_url: str) -> int:
    return int(base_url.split(":")[2].split("/", maxsplit=1)[0])


@pytest.mark.parametrize("arguments", [(), ("fork",), ("wait",)])
def test_the_server_ends_when_its_controller_is_killed(controllers: Any, arguments: tuple[str, ...]) -> None:
    controller = controllers(*arguments)
    assert not select.select([controller.server], [], [], 0)[0]

    controller.process.kill()

    assert has_ended(controller.server)
    assert port_is_free(port_of(controller.base_url))


@pytest.mark.parametrize("arguments", [(), ("wait",)])
def test_ctrl_c_at_the_controller_ends_both(controllers: Any, arguments: tuple[str, ...]) -> None:
    controller = controllers(*arguments)

    # As a terminal does: to the whole foreground group.
    os.killpg(controller.process.pid, signal.SIGINT)
    _, stderr = controller.process.communicate(timeout=TIME_LIMIT_S)

    assert controller.process.returncode == -signal.SIGINT
    assert has_ended(controller.server)
    # One traceback, the controller's own: the server has said nothing.
    assert stderr.count("KeyboardInterrupt") == 1


def test_ctrl_c_at_the_server_does_not_end_it(server: AntennaServer, worker: Worker) -> None:
    # Before it can ignore it, it must not even get it.
    assert os.getpgid(server.pid) == server.pid
    os.kill(server.pid, signal.SIGINT)

    assert worker.poll() == []
    assert server.state().polls == 1


def test_stop_ends_the_process_and_frees_the_port() -> None:
    server = AntennaServer(ServerConfig(token=TOKEN))
    server.start()
    pidfd, port = os.pidfd_open(server.pid), port_of(server.base_url)
    server.stop()
    server.stop()

    assert has_ended(pidfd)
    os.close(pidfd)
    assert port_is_free(port)
    with pytest.raises(AntennaServerError, match="is not running"):
        server.state()


def test_stop_ends_the_process_though_a_fork_of_the_controller_still_has_its_sockets() -> None:
    server = AntennaServer(ServerConfig(token=TOKEN))
    server.start()
    server.state()
    process = server._process
    assert process is not None
    forked = os.fork()
    if forked == 0:
        signal.pause()
    try:
        server.stop()
    finally:
        os.kill(forked, signal.SIGKILL)
        os.waitpid(forked, 0)

    # It ended by itself, and was not killed after a limit.
    assert process.returncode == 0


def test_an_error_in_the_controller_ends_the_server() -> None:
    server = AntennaServer(ServerConfig(token=TOKEN))
    with pytest.raises(ZeroDivisionError), server:
        pidfd = os.pidfd_open(server.pid)
        server.add_job(JobSpec("moth_binary", 1 // 0 * ()))

    assert has_ended(pidfd)
    os.close(pidfd)


def test_the_server_outlives_the_thread_that_started_it() -> None:
    server = AntennaServer(ServerConfig(token=TOKEN))
    starting = threading.Thread(target=server.start)
    starting.start()
    starting.join()
    with server.__class__(ServerConfig(token=TOKEN)) as other:
        assert other.base_url != server.base_url
    try:
        assert Worker(server).poll() == []
    finally:
        server.stop()


def test_a_server_that_dies_is_reported_and_not_waited_for() -> None:
    with AntennaServer(ServerConfig(token=TOKEN)) as server:
        server.hold_polls()
        threading.Timer(0.1, os.kill, (server.pid, signal.SIGKILL)).start()
        with pytest.raises(AntennaServerError, match="died with status -9"):
            server.wait_poll(TIME_LIMIT_S)
        with pytest.raises(AntennaServerError, match="died with status -9"):
            server.state()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address(server))


def test_a_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\necho 'no module named amidiag' >&2\nexit 3\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    server = AntennaServer(ServerConfig(token=TOKEN))

    with pytest.raises(AntennaServerError, match="died with status 3: no module named amidiag"):
        server.start()
    with pytest.raises(AntennaServerError, match="was not started"):
        _ = server.base_url


def test_a_running_server_cannot_be_started_again(server: AntennaServer) -> None:
    with pytest.raises(AntennaServerError, match="already running"):
        server.start()


def test_starting_and_stopping_leaves_nothing_behind() -> None:
    def run_once() -> tuple[int, int]:
        with AntennaServer(ServerConfig(token=TOKEN)) as server:
            server.add_job(JobSpec("moth_binary"))
            server.state()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    first = run_once()
    assert [run_once() for _ in range(4)] == [first] * 4


def test_the_server_says_nothing_on_the_terminal(controllers: Any) -> None:
    controller = controllers()
    with socket.create_connection(("127.0.0.1", port_of(controller.base_url))) as connection:
        connection.sendall(b"nonsense\r\n\r\nGET /nothing HTTP/1.1\r\n\r\n")
        connection.recv(1)
    os.killpg(controller.process.pid, signal.SIGTERM)
    stdout, stderr = controller.process.communicate(timeout=TIME_LIMIT_S)

    assert has_ended(controller.server)
    assert (stdout, stderr) == ("", "")


def test_started_by_hand_it_says_what_is_missing() -> None:
    command = [sys.executable, "-m", "amidiag.soak.antenna"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIME_LIMIT_S)

    assert ended.returncode == 2
    assert "--control-fd" in ended.stderr


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token": ""}, "token"),
        ({"token": "two words"}, "token"),
        ({"token": "t", "visibility_timeout_s": 0}, "visibility_timeout_s"),
        ({"token": "t", "visibility_timeout_s": float("nan")}, "visibility_timeout_s"),
        ({"token": "t", "max_deliver": 0}, "max_deliver"),
        ({"token": "t", "image_cache_bytes": -1}, "image_cache_bytes"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerConfig(**fields)


def test_the_token_is_not_in_the_configuration_s_text() -> None:
    assert "secret" not in repr(ServerConfig(token="secret"))


def test_the_package_imports_without_numpy_and_the_worker_s_libraries() -> None:
    code = (
        "import sys\n"
        "for name in ('numpy', 'PIL', 'torch', 'requests', 'pydantic'): sys.modules[name] = None\n"
        "from amidiag.soak.antenna import AntennaServer, JobSpec, ServerConfig\n"
        "with AntennaServer(ServerConfig(token='t')) as server:\n"
        "    print(server.add_job(JobSpec('moth_binary')))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1\n", "")
