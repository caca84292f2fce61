"""Several workers on one machine, started, told to drain and ended by one small parent.

Importing this module does not import torch, and the parent never does.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from worker import exit_codes
from worker.draining import SIGNALS, Drain
from worker.settings import WorkerSettings, env_name

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
PARENT_FD = "AMIDIAG_PARENT_FD"  # the end of a pipe through which a child is told to drain
DRIVER, DEVICES = Path("/proc/driver/nvidia/gpus"), Path("/dev")

_DRAIN = b"d"
_SETTLE_S = 0.5
_KILLED_AFTER_S = 5.0
_LOOK_EVERY_S = 1.0
_MARGIN_S = 60.0
_PR_SET_PDEATHSIG = 1


def gpus(
    environ: Mapping[str, str] = os.environ, driver: Path = DRIVER, devices: Path = DEVICES
) -> tuple[str, ...]:
    """The GPUs that CUDA would find, as `CUDA_VISIBLE_DEVICES` names them: without CUDA, torch or a tool.

    Counted is what the driver lists and has a device node here: in a container not every GPU has one.
    """
    listed = environ.get(VISIBLE)
    if listed is not None:
        named = [name.strip() for name in listed.split(",")]
        # As CUDA does: what follows a name that is no device is not looked at.
        bad = next((at for at, name in enumerate(named) if not re.fullmatch(r"\d+|(GPU|MIG)-.+", name)), None)
        return tuple(named[:bad])
    try:
        cards = sorted(driver.iterdir())
    except OSError:
        return ()
    usable = [card for card in cards if _has_node(card, devices)]
    return tuple(str(number) for number in range(len(usable)))


def plan(
    settings: WorkerSettings, found: Sequence[str], environ: Mapping[str, str] = os.environ
) -> list[dict[str, str]]:
    """For each worker what its environment has that the parent's has not. One: the parent itself is the worker.

    What one machine has is shared out among them: GPUs in turn, CPUs, memory budget, staging directory.
    """
    count = settings.instances or max(1, len(found))
    if count == 1:
        return [{}]
    return [
        {env_name("instances"): "1"}
        | ({VISIBLE: found[number % len(found)]} if found else {})
        | _share(settings, number, count, environ)
        for number in range(count)
    ]


def supervise(planned: Sequence[Mapping[str, str]], settings: WorkerSettings, *, ends_by_itself: bool) -> int:
    """Start a worker for each environment of `planned`, by the command of this process, and wait for their end.

    The first signal makes them drain, a second one ends them at once. As soon as one ends, the others drain too:
    the supervisor above restarts what has ended, and must not see a service as running of which a part is gone;
    what has ended one (a refused token, a wrong setting, a server out of reach) is mostly the same for all.
    `ends_by_itself`: a worker that ends with 0 has done its polls, and the others go on.

    Returns the highest exit code; a worker that a signal has ended counts as 70, or 128 + number where a second
    signal to this process did it.
    """
    limit_s = settings.antenna_unreachable_limit_s + settings.antenna_api_dataloader_timeout_s + _MARGIN_S
    with _signals_held_back() as before:
        family = _Family([_start(extra, before) for extra in planned], limit_s)
        log.info(
            "%s workers: %s", len(planned), ", ".join(str(child.process.pid) for child in family.children)
        )
        return family.run(ends_by_itself)


def listen_to_parent(drain: Drain) -> None:
    """In a worker that has such a parent: drain when it says so. To be called after `drain.install`.

    It does not say so by a signal, since whoever stops a service often sends one to every process of it, and a
    second signal ends a worker at once.
    """
    number = os.environ.pop(PARENT_FD, None)
    if number is None:
        return
    fd = int(number)
    os.set_inheritable(fd, False)

    def listen() -> None:
        told = os.read(fd, 1)
        os.close(fd)
        # A signal that was sent to all arrives in this time.
        time.sleep(_SETTLE_S)
        if told and not drain.requested:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, name="ami-parent", daemon=True).start()


@dataclass(slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    pipe: int

    def drain(self) -> None:
        with suppress(BrokenPipeError):
            os.write(self.pipe, _DRAIN)


class _Family:
    """The workers of one parent, until the last of them has ended."""

    def __init__(self, children: Sequence[_Child], limit_s: float) -> None:
        self.children = list(children)
        self._limit_s = limit_s
        self._signal: int | None = None
        self._draining_until: float | None = None
        self._codes: list[int] = []

    def run(self, ends_by_itself: bool) -> int:
        while self.children:
            self._wait()
            for child in [c for c in self.children if c.process.poll() is not None]:
                code = self._ended(child)
                if self._draining_until is None and self.children and not (ends_by_itself and code == 0):
                    log.warning("worker %s has ended with %s: the others drain", child.process.pid, code)
                    self._drain()
            if self._draining_until is not None and time.monotonic() > self._draining_until:
                return self._kill(exit_codes.INTERNAL, f"not drained within {self._limit_s:g} s")
        return max(self._codes)

    def _wait(self) -> None:
        """Until a signal comes or a child has ended, and not longer than `_LOOK_EVERY_S`."""
        came = signal.sigtimedwait({signal.SIGCHLD, *SIGNALS}, _LOOK_EVERY_S)
        if came is None or came.si_signo == signal.SIGCHLD:
            return
        if self._signal is not None:
            self._codes.append(self._kill(128 + came.si_signo, "a second signal"))
            return
        self._signal = came.si_signo
        if self._draining_until is None:
            log.info("told to end: %s workers drain", len(self.children))
            self._drain()

    def _ended(self, child: _Child) -> int:
        self.children.remove(child)
        os.close(child.pipe)
        code = child.process.returncode
        if -code in SIGNALS and self._signal is not None:
            # Sent to every process of the service, while this one was still starting: it had nothing in hand.
            code = exit_codes.DRAINED
        elif code < 0:
            log.error("worker %s was ended by a signal: %s", child.process.pid, signal.strsignal(-code))
            code = exit_codes.INTERNAL
        self._codes.append(code)
        return code

    def _drain(self) -> None:
        self._draining_until = time.monotonic() + self._limit_s
        for child in self.children:
            child.drain()

    def _kill(self, code: int, why: str) -> int:
        """End all at once: by a signal, by which they end their loader processes too, else by SIGKILL."""
        log.error("%s: %s workers are ended at once", why, len(self.children))
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            for child in self.children:
                child.process.send_signal(number)
            limit = time.monotonic() + (_SETTLE_S if number == signal.SIGTERM else _KILLED_AFTER_S)
            while time.monotonic() < limit and any(c.process.poll() is None for c in self.children):
                time.sleep(0.02)
        self.children.clear()
        return code


def _start(extra: Mapping[str, str], before: set[signal.Signals]) -> _Child:
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env={**os.environ, **extra, PARENT_FD: str(reader)},
            pass_fds=[reader],
            # Of its own: Ctrl-C in a terminal reaches the parent only.
            process_group=0,
            preexec_fn=_dies_with(os.getpid(), before),  # noqa: PLW1509 - this process has one thread
        )
    finally:
        os.close(reader)
    return _Child(process, writer)


def _dies_with(parent: int, mask: set[signal.Signals]) -> Callable[[], None]:
    """What a child does before its command: be killed when the parent is, and let the signals through again.

    Killed, and not told to drain: whoever kills the parent wants the memory back, and a supervisor starts a new one
    at once. Loader processes notice by themselves.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(exit_codes.INTERNAL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return prepare


@contextmanager
def _signals_held_back() -> Iterator[set[signal.Signals]]:
    """Let `sigtimedwait` have the signals: no handler, so none of them comes between two lines."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *SIGNALS})
    try:
        yield {signal.Signals(number) for number in before}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _share(settings: WorkerSettings, number: int, count: int, environ: Mapping[str, str]) -> dict[str, str]:
    share: dict[str, str] = {}
    if settings.memory_share is not None:
        share[env_name("memory_budget")] = f"{100 * settings.memory_share / count:.4g}%"
    elif settings.memory_bytes:
        share[env_name("memory_budget")] = str(max(1, settings.memory_bytes // count))
    if settings.staging_dir:
        # Each removes what it finds half-written at its start.
        share[env_name("staging_dir")] = str(Path(settings.staging_dir) / f"instance-{number}")
        share[env_name("staging_max_bytes")] = str(max(1, settings.staging_max_bytes // count))
    if "OMP_NUM_THREADS" not in environ:
        cpus = len(os.sched_getaffinity(0)) // count - settings.num_workers
        share["OMP_NUM_THREADS"] = str(max(1, cpus))
    return share


def _has_node(card: Path, devices: Path) -> bool:
    try:
        minor = re.search(r"^Device Minor:\s*(\d+)", (card / "information").read_text(), re.MULTILINE)
    except OSError:
        return False
    return minor is not None and (devices / f"nvidia{minor[1]}").exists()
