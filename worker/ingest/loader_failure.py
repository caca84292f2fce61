"""Why a loader failed, in one line, and with which request."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from worker.exhaustion import exhausted
from worker.ingest import beat
from worker.ingest.beat import Beats
from worker.ingest.loader_watch import Trouble

_LAST_WORDS_S, _LOOK_EVERY_S = 1.0, 0.02

TIMED_OUT = "DataLoader timed out"
# torch's ExceptionWrapper says so of what a loader process raised.
_RAISED = "in DataLoader worker process"


class LoaderError(Exception):
    """The loader could not be built, or failed while it held tasks; the text says why.

    `suspect`: with which of the requests in flight, the oldest is 0, a process died, or which was waited for in
    vain; None where no request is to blame. `exhausted`: what this process or machine has run out of, if that is it.
    """

    def __init__(self, text: str, suspect: int | None = None, exhausted: str | None = None) -> None:
        super().__init__(text)
        self.suspect = suspect
        self.exhausted = exhausted


def explain(iterator: Any, beats: Beats | None, trouble: Trouble | None, error: BaseException) -> LoaderError:
    """What a wait for a batch that ended with `error` comes to. `trouble`: what the watch has found."""
    if trouble is not None and not trouble.died:
        return LoaderError(trouble.text, trouble.suspect)
    said = _last_words(iterator, beats)
    if isinstance(error, EOFError | ConnectionError):
        # The connection to a process that ends is gone a moment before it has said why.
        until = time.monotonic() + _LAST_WORDS_S
        while not said and not dead_of(iterator) and time.monotonic() < until:
            time.sleep(_LOOK_EVERY_S)
            said = _last_words(iterator, beats)
    text = said or f"{type(error).__name__}: {first_line(error)}"
    ours = exhausted(RuntimeError(said)) if said else exhausted(error)
    if ours is not None:
        return LoaderError(f"{ours} ({text})", exhausted=ours)
    return LoaderError(text, None if said else _suspect(iterator, beats, error))


def processes_of(iterator: Any) -> Sequence[BaseProcess]:
    """The loader processes of a DataLoader's iterator; none of one without."""
    return getattr(iterator, "_workers", ())


def dead_of(iterator: Any) -> list[int]:
    """The numbers of the loader processes that have died. All live until they are told to end."""
    processes = processes_of(iterator)
    return [n for n, p in enumerate(processes) if not iterator._shutdown and not p.is_alive()]


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if "Original Traceback" in str(error):
        # The loader process's own error is the last line of its traceback.
        return lines[-1].strip()
    return lines[0].strip() if lines else ""


def _last_words(iterator: Any, beats: Beats | None) -> str:
    """What a process that has ended by itself has said of it. It may be about to end still."""
    for number, process in enumerate(processes_of(iterator)):
        shown = beats.read(number) if beats is not None else None
        if shown is not None and shown.why:
            return f"loader process {process.pid} has ended: {shown.why}"
    return ""


def _suspect(iterator: Any, beats: Beats | None, error: BaseException) -> int | None:
    """See `LoaderError`: the request at which a process died or raised, or the one that was waited for."""
    if not processes_of(iterator):
        return None
    held = {number: info[0] for number, info in iterator._task_info.items() if len(info) == 1}
    dead = dead_of(iterator)
    guilty = [
        number
        for number, process in held.items()
        if process in dead and _was_loading(iterator, beats, process)
    ]
    if guilty:
        return int(min(guilty) - iterator._rcvd_idx)
    # What it raised has come in the place of a batch, so it is the one that was waited for.
    return 0 if not dead and (str(error).startswith(TIMED_OUT) or _RAISED in str(error)) else None


def _was_loading(iterator: Any, beats: Beats | None, number: int) -> bool:
    """Whether a process died at a request, and not by a bus error: that comes of a full /dev/shm."""
    shown = beats.read(number) if beats is not None else None
    if processes_of(iterator)[number].exitcode == -signal.SIGBUS:
        return False
    return shown is None or shown.phase == beat.LOADING
