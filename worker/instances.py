"""Several workers on one machine, started, told to drain and ended by one small parent.

Importing this module does not import torch, and the parent never does.
"""

from __future__ import annotations

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
from pathlib import Path

from worker import exit_codes
from worker.draining import SIGNALS, Drain
from worker.guard.budget import Left, memory_left
from worker.ingest.parent_death import die_with_parent
from worker.settings import WorkerSettings, env_name
from worker.systemd import Notifier

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
PARENT_FD = "AMIDIAG_PARENT_FD"  # the end of a pipe through which a child is told to drain
DRIVER, DEVICES = Path("/proc/driver/nvidia/gpus"), Path("/dev")

_DRAIN = b"d"
_SETTLE_S = 0.5
_KILLED_AFTER_S = 5.0
_LOOK_EVERY_S = 1.0
_MARGIN_S = 60.0
_SHORT_LIFE_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


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
    left = memory_left()
    return [
        {env_name("instances"): "1"}
        | ({VISIBLE: found[number % len(found)]} if found else {})
        | _share(settings, number, count, environ, left)
        for number in range(count)
    ]


def supervise(planned: Sequence[Mapping[str, str]], settings: WorkerSettings, *, ends_by_itself: bool) -> int:
    """Start a worker for each environment of `planned`, by the command of this process, and wait for their end.

    The first signal makes them drain, a second one ends them at once. As soon as one ends, the others drain too:
    the supervisor above restarts what has ended, and must not see a service as running of which a part is gone;
    what has ended one (a refused token, a wrong setting, a server out of reach) is mostly the same for all.
    Only one that wants to be replaced (75) is started again, and the others go on; one that wants it again and
    again soon after its start waits longer each time.
    `ends_by_itself`: a worker that ends with 0 or 75 has done its polls, or is not to begin them anew, and the
    others go on.

    Returns the highest exit code, 75 only where there is no other; a worker that a signal has ended counts as
    70, or 128 + number where a second signal to this process did it. One that drains counts as drained, whatever
    it wanted besides.
    """
    # It is this process that a service manager watches, and no worker below it.
    notifier = Notifier()
    with _signals_held_back() as before:
        family = _Family([_Child(extra, before) for extra in planned], drain_limit_s(settings), notifier)
        text = f"{len(planned)} workers: {', '.join(str(child.process.pid) for child in family.children)}"
        log.info("%s", text)
        notifier.ready()
        notifier.status(text)
        return family.run(ends_by_itself)


def drain_limit_s(settings: WorkerSettings) -> float:
    """How long several workers may take to drain, in seconds, until their parent ends them: the batch in hand, for
    which the worker's own watchdog sets the limit, then the posting, then the end of the processes."""
    return settings.watchdog_s + settings.worker_drain_limit_s + _MARGIN_S


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


class _Child:
    """One of the workers: a process, and after it the next one where that wanted to be replaced."""

    def __init__(self, extra: Mapping[str, str], mask: set[signal.Signals]) -> None:
        self._extra = extra
        self._mask = mask
        self._short_lives = 0
        self.start_at = 0.0
        self.start()

    def start(self) -> None:
        self._started = time.monotonic()
        self.process, self._pipe = _start(self._extra, self._mask)

    def drain(self) -> None:
        with suppress(BrokenPipeError):
            os.write(self._pipe, _DRAIN)

    def ended(self) -> None:
        os.close(self._pipe)

    def replace(self) -> float:
        """Have the next one started after so many seconds: at once, or growing where lives are short."""
        now = time.monotonic()
        self._short_lives = self._short_lives + 1 if now - self._started < _SHORT_LIFE_S else 0
        # One may be chance.
        doubled = self._short_lives - 2
        pause = min(_FIRST_PAUSE_S * 2.0**doubled, _LONGEST_PAUSE_S) if doubled >= 0 else 0.0
        self.start_at = now + pause
        return pause


class _Family:
    """The workers of one parent, until the last of them has ended."""

    def __init__(self, children: Sequence[_Child], limit_s: float, notifier: Notifier) -> None:
        self.children = list(children)
        self._notifier = notifier
        self._limit_s = limit_s
        self._signal: int | None = None
        self._draining_until: float | None = None
        self._codes: list[int] = []
        # Those that are started again when their time has come.
        self._waiting: list[_Child] = []

    def run(self, ends_by_itself: bool) -> int:
        while self.children or self._waiting:
            self._wait()
            self._notifier.alive()
            for child in [c for c in self.children if c.process.poll() is not None]:
                code = self._ended(child)
                if code == exit_codes.RECYCLE and self._draining_until is None and not ends_by_itself:
                    self._replace(child)
                    continue
                self._codes.append(code)
                well = ends_by_itself and code in (exit_codes.DRAINED, exit_codes.RECYCLE)
                if self._draining_until is None and (self.children or self._waiting) and not well:
                    log.warning("worker %s has ended with %s: the others drain", child.process.pid, code)
                    self._drain()
            self._start_due()
            if self._draining_until is not None and time.monotonic() > self._draining_until:
                return self._kill(exit_codes.INTERNAL, f"not drained within {self._limit_s:g} s")
        return max(self._codes, key=_weight, default=exit_codes.DRAINED)

    def _replace(self, child: _Child) -> None:
        pause = child.replace()
        after = f", in {pause:g} s, since it has not lived long" if pause else ""
        log.info("worker %s wants to be replaced: a new one is started%s", child.process.pid, after)
        self._waiting.append(child)

    def _start_due(self) -> None:
        for child in [c for c in self._waiting if c.start_at <= time.monotonic()]:
            self._waiting.remove(child)
            try:
                child.start()
            except OSError as e:
                log.error("a worker cannot be started: %s: the others drain", e)
                self._codes.append(exit_codes.INTERNAL)
                self._drain()
                return
            self.children.append(child)
            log.info("worker %s is started in its place", child.process.pid)

    def _wait(self) -> None:
        """Until a signal comes or a child has ended, and not longer than `_LOOK_EVERY_S`."""
        soonest = min((c.start_at - time.monotonic() for c in self._waiting), default=_LOOK_EVERY_S)
        came = signal.sigtimedwait({signal.SIGCHLD, *SIGNALS}, max(0.0, min(soonest, _LOOK_EVERY_S)))
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
        child.ended()
        code = child.process.returncode
        if -code in SIGNALS and self._signal is not None:
            # Sent to every process of the service, while this one was still starting: it had nothing in hand.
            return exit_codes.DRAINED
        if code == exit_codes.RECYCLE and self._draining_until is not None:
            return exit_codes.DRAINED
        if code < 0:
            log.error("worker %s was ended by a signal: %s", child.process.pid, signal.strsignal(-code))
            return exit_codes.INTERNAL
        return code

    def _drain(self) -> None:
        self._draining_until = time.monotonic() + self._limit_s
        self._notifier.stopping()
        self._waiting.clear()
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
        self._waiting.clear()
        return code


def _weight(code: int) -> float:
    """By how bad it is: a wish to be replaced says least of those that are not 0."""
    return 0.5 if code == exit_codes.RECYCLE else code


def _start(extra: Mapping[str, str], before: set[signal.Signals]) -> tuple[subprocess.Popen[bytes], int]:
    """A process, and the end of the pipe through which it is told to drain."""
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
    return process, writer


def _dies_with(parent: int, mask: set[signal.Signals]) -> Callable[[], None]:
    """What a child does before its command: be killed when the parent is, and let the signals through again.

    Killed, and not told to drain: whoever kills the parent wants the memory back, and a supervisor starts a new one
    at once. Loader processes notice by themselves.
    """

    def prepare() -> None:
        die_with_parent()
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


def _share(
    settings: WorkerSettings, number: int, count: int, environ: Mapping[str, str], left: Left | None
) -> dict[str, str]:
    share: dict[str, str] = {}
    of_memory = {
        "memory_budget": _part(settings.memory_share, settings.memory_bytes, count, left),
        "worker_max_memory": _part(settings.max_memory_share, settings.max_memory_bytes, count, left),
    }
    share.update({env_name(name): amount for name, amount in of_memory.items() if amount is not None})
    if settings.metrics_port:
        share[env_name("metrics_port")] = str(settings.metrics_port + number)
    if settings.staging_dir:
        # Each removes what it finds half-written at its start.
        share[env_name("staging_dir")] = str(Path(settings.staging_dir) / f"instance-{number}")
        share[env_name("staging_max_bytes")] = str(max(1, settings.staging_max_bytes // count))
    if "OMP_NUM_THREADS" not in environ:
        cpus = len(os.sched_getaffinity(0)) // count - settings.num_workers
        share["OMP_NUM_THREADS"] = str(max(1, cpus))
    return share


def _part(share: float | None, size: int | None, count: int, left: Left | None) -> str | None:
    """A part of a size, or of a share of what is left now: who is started anew later must not find the share of what
    the others leave."""
    if share and left is not None:
        return str(max(1, int(share * left.bytes / count)))
    if share is not None:
        return f"{100 * share / count:.4g}%"
    return str(max(1, size // count)) if size else None


def _has_node(card: Path, devices: Path) -> bool:
    try:
        minor = re.search(r"^Device Minor:\s*(\d+)", (card / "information").read_text(), re.MULTILINE)
    except OSError:
        return False
    return minor is not None and (devices / f"nvidia{minor[1]}").exists()
