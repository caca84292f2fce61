"""The controller's handle on an embedded Antenna server: starts its process, tells it what to do, ends it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Self

from amidiag.soak.antenna import codec
from amidiag.soak.antenna.channels import Channels
from amidiag.soak.antenna.words import (
    Answer,
    AntennaServerError,
    FaultSpec,
    JobSpec,
    Registration,
    ServerConfig,
    ServerState,
    TaskStory,
)

_START_LIMIT_S = 60.0
_ASK_LIMIT_S = 60.0
_END_LIMIT_S = 5.0


class AntennaServer:
    """An Antenna server in its own process, on a loopback port that the kernel chooses.

    Used with `with`, or by `start()` and `stop()`. The process ends with `stop()`, and with this
    process, whichever way it ends. Every method may be called from any thread, also while another
    one waits in `wait_poll`; each raises AntennaServerError where the server refuses, has died or
    is not running.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self._origin = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._channels: Channels | None = None
        self._stderr: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the process and waits until it accepts connections."""
        if self._process is not None:
            raise AntennaServerError("the embedded Antenna server is already running")
        # A file and not this process's stderr: nothing of the server may reach the terminal.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channels = Channels(control)
        try:
            with theirs:
                self._process = self._spawn(theirs, self._stderr)
            self._origin = self._greet(control)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the process and waits for its end. May be called again."""
        channels, self._channels = self._channels, None
        process, self._process = self._process, None
        stderr, self._stderr = self._stderr, None
        try:
            if channels is not None:
                channels.close()
            if process is not None:
                _end(process)
        finally:
            if stderr is not None:
                stderr.close()

    @property
    def pid(self) -> int:
        """Of the server's process."""
        if self._process is None:
            raise AntennaServerError("the embedded Antenna server is not running")
        return self._process.pid

    @property
    def base_url(self) -> str:
        """What a worker gets as `AMI_ANTENNA_API_BASE_URL`."""
        if not self._origin:
            raise AntennaServerError("the embedded Antenna server was not started")
        return f"{self._origin}/api/v2"

    def add_job(self, spec: JobSpec) -> int:
        """Adds a job, listed from now on; returns its id."""
        return int(self._ask("add_job", {"job": codec.encode_job(spec)}))

    def list_jobs(self, job_ids: Sequence[int] | None) -> None:
        """From now on polls find only these jobs, complete or not; None: again what is there."""
        self._ask("list_jobs", {"job_ids": None if job_ids is None else list(job_ids)})

    def state(self, jobs: Sequence[int] | None = None) -> ServerState:
        """What the server has seen; `jobs` names those to tell about one by one (None: all)."""
        return codec.decode_state(self._ask("state", {"jobs": None if jobs is None else list(jobs)}))

    def answers(self, job_id: int) -> list[Answer]:
        """What was answered for each image of a job, in the order of its images."""
        return codec.decode_answers(self._ask("answers", {"job_id": job_id}))

    def stories(self, job_id: int) -> list[TaskStory]:
        """When each task of a job was handed out and given up, in the order of its images."""
        return codec.decode_stories(self._ask("stories", {"job_id": job_id}))

    def registered(self) -> dict[str, Registration]:
        """The processing services that registered pipelines, by name."""
        return codec.decode_registrations(self._ask("registered"))

    def fault(self, spec: FaultSpec) -> None:
        """Arms a fault. One of the whole server (`down`, the clock's) has taken effect when this returns."""
        self._ask("fault", {"fault": codec.encode_fault(spec)})

    def clear_faults(self) -> None:
        """Disarms all faults; a server that is down stays so for its time."""
        self._ask("clear_faults")

    def hold_polls(self) -> None:
        """Lock-step: from now on each `GET /jobs` with a valid token waits until it is released."""
        self._ask("hold_polls")

    def wait_poll(self, timeout: float, count: int = 1) -> bool:
        """True as soon as `count` polls are held, False when `timeout` seconds are over.

        A poll whose client has gone away is not held.
        """
        return bool(
            self._ask("wait_poll", {"timeout_s": timeout, "count": count}, limit_s=timeout + _ASK_LIMIT_S)
        )

    def release_poll(self, jobs: Sequence[int] | None = None) -> bool:
        """Lets the poll that is held longest go on; False where none is held.

        `jobs` is exactly what it finds, in this order, whatever it asked for; None: what is there.
        """
        return bool(self._ask("release_poll", {"jobs": None if jobs is None else list(jobs)}))

    def free_polls(self) -> None:
        """Ends lock-step: all held polls go on, and further ones are not held."""
        self._ask("free_polls")

    def _spawn(self, control: socket.socket, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        # -P: a file in the working directory must not stand in for a module.
        command = [sys.executable, "-P", "-m", "amidiag.soak.antenna"]
        return subprocess.Popen(
            [*command, "--control-fd", str(control.fileno()), "--controller", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=[control.fileno()],
            # Its own group: a Ctrl-C before it ignores it would end it too early.
            process_group=0,
        )

    def _greet(self, control: socket.socket) -> str:
        """Sends the configuration, returns the origin of the server's URLs."""
        control.settimeout(_START_LIMIT_S)
        try:
            control.send(json.dumps(codec.encode_config(self.config)).encode())
            reply = control.recv(65536)
        except TimeoutError:
            raise AntennaServerError(
                f"the embedded Antenna server did not start within {_START_LIMIT_S:.0f} s"
            ) from None
        except ConnectionError:
            reply = b""
        if not reply:
            raise self._died()
        control.settimeout(None)
        return str(json.loads(reply)["origin"])

    def _ask(
        self, word: str, arguments: Mapping[str, Any] | None = None, limit_s: float = _ASK_LIMIT_S
    ) -> Any:
        if self._channels is None:
            raise AntennaServerError("the embedded Antenna server is not running")
        try:
            return self._channels.ask(word, arguments or {}, limit_s)
        except ConnectionError:
            raise self._died() from None
        except TimeoutError:
            raise AntennaServerError(
                f"the embedded Antenna server did not answer {word} within {limit_s:.0f} s"
            ) from None

    def _died(self) -> AntennaServerError:
        """What there is to say about a server that hung up."""
        if self._process is None or self._stderr is None:
            return AntennaServerError("the embedded Antenna server was stopped")
        status = _end(self._process)
        # pread: the offset of this file is shared with the server's.
        size = os.fstat(self._stderr.fileno()).st_size
        said = os.pread(self._stderr.fileno(), 4000, max(0, size - 4000)).decode(errors="replace").strip()
        return AntennaServerError(
            f"the embedded Antenna server died with status {status}: {said or 'no word'}"
        )


def _end(process: subprocess.Popen[bytes]) -> int:
    """Waits for the end of a process that has been told to end; kills it where it does not."""
    try:
        return process.wait(_END_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
