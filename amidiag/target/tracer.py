"""The tracer: keeps from where this program makes FDs, shared memory, threads and child processes.

`install` switches it on, `Tracer.uninstall` off again. It never changes what the program does: errors of
ours are counted and swallowed in `Tracer.swallow`, and nowhere else; what cannot be had at the start
leaves it off, with the reason in `error`. Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import atexit
import errno
import os
import sys
from _thread import get_ident
from posix import getpid
from sys import _getframe

from . import hooks, inherit, notes
from .blame import is_ours, take_out_our_frames
from .trace_file import SLOTS, Reservation, TraceFile
from .trace_layout import R_ERRORS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from .trace_region import Region

_OUT_OF_FDS = (errno.EMFILE, errno.ENFILE)
# This package, as installed and as `boot/sitecustomize.py` loads it where it is not.
_NAMES = ("amidiag.target.tracer", "_amidiag_target.tracer")


class Tracer:
    """The one tracer of this process and of the children that it forks.

    `error`: why it is off although it was asked for, else None. `path`: its table, None where it is off.
    """

    def __init__(self) -> None:
        self.error: str | None = None
        self.region: Region | None = None
        self._file: TraceFile | None = None
        self._reserved: dict[int, Reservation] = {}
        self._pid = getpid()
        self._prepared = False

    @property
    def path(self) -> str | None:
        """The table of this process."""
        return None if self._file is None else self._file.path

    def _switch_on(self, *, children: bool, slots: int) -> None:
        if sys.version_info >= (3, 13) and not sys._is_gil_enabled():
            raise NotImplementedError("a Python without the global interpreter lock is not supported")
        notes.learn()
        self._file = TraceFile(slots=slots)
        self._pid = getpid()
        if not self._prepared:
            # What is registered here cannot be taken back: it asks whether the tracer is on.
            os.register_at_fork(
                before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_child
            )
            atexit.register(self._at_exit)
            self._prepared = True
        self.region = self._file.first()
        hooks.install(self)
        if children:
            inherit.switch_on()

    def uninstall(self) -> None:
        """Switch off, take every hook out, and remove the table. In children that were forked it goes on,
        and then the table stays. Never raises."""
        self.guarded(hooks.uninstall)
        self.guarded(inherit.switch_off)
        region, self.region = self.region, None
        if region is not None:
            region.off()
        self.guarded(self._remove_file)

    def _remove_file(self) -> None:
        file, self._file = self._file, None
        if file is not None and file.pid == getpid():
            file.unlink()

    def guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do something of ours that must not fail into the program."""
        try:
            work(*arguments)
        except BaseException as error:
            if not self.swallowed(error):
                raise

    def swallowed(self, error: BaseException) -> bool:
        """The one place where errors of ours end, counted. False for what is the program's: a signal
        handler's, say, for which the traceback is made as if we were not there."""
        try:
            ours = is_ours(error)
            if not ours:
                take_out_our_frames(error)
        except RecursionError:
            ours = type(error) is RecursionError
        region = self.region
        if ours and region is not None:
            # No call: there may be no room for one.
            region.words[R_ERRORS] += 1
        return ours

    def failed(self, error: BaseException) -> None:
        """A creation failed: count it if FDs ran out."""
        if isinstance(error, OSError) and error.errno in _OUT_OF_FDS and self.region is not None:
            self.guarded(self.region.failed_for_want_of_fds)

    def _before_fork(self) -> None:
        if self.region is not None:
            self.guarded(self._reserve, _getframe(1))

    def _reserve(self, frame: FrameType) -> None:
        region = self.region
        if region is None:
            return
        if self._file is None:
            # A forked child that forks: its own region is its parent's gift, those of its children are not.
            self._file = TraceFile(with_first=False)
        reservation = self._file.reserve((self._pid, region.claimed), region.site(frame))
        if reservation is not None:
            # By thread: another may fork at the same moment.
            self._reserved[get_ident()] = reservation

    def _after_fork(self) -> None:
        self._reserved.pop(get_ident(), None)

    def _in_child(self) -> None:
        if self.region is not None:
            self.region = None
            self.guarded(self._begin_in_child)

    def _begin_in_child(self) -> None:
        reservation = self._reserved.get(get_ident())
        self._reserved = {}
        self._file = None
        self._pid = getpid()
        region = None if reservation is None else reservation.claim()
        if region is None:
            self._file = TraceFile()
            region = self._file.first()
        self.region = region

    def _at_exit(self) -> None:
        # After an uncaught error, or when FDs have run out, somebody will want to know from where.
        region = self.region
        if region is not None and getattr(sys, "last_type", None) is None and region.emfile == 0:
            self.guarded(self._remove_file)
        # What follows is Python's own end: our functions may lose what they call at any moment.
        self.region = None


def install(*, children: bool = True, slots: int = SLOTS) -> Tracer:
    """Switch tracing on in this process and in those that it forks, and give the tracer. Never raises.

    `children`: Python programs that it starts are traced too, by `AMI_DIAG_TRACE` in their environment.
    `slots`: how many resources the table holds; `AMIDIAG_TRACE_SLOTS` in the environment wins.
    A second call gives the same tracer. Where it cannot be switched on, `Tracer.error` says why.
    """
    tracer = installed()
    if tracer.region is None:
        tracer.error = None
        try:
            tracer._switch_on(children=children, slots=_slots(slots))
        except Exception as e:  # noqa: BLE001 - a program must not stop because it cannot be traced
            tracer.error = f"{type(e).__name__}: {e}"
            tracer.uninstall()
            tracer.guarded(inherit.give_up)
    return tracer


def installed() -> Tracer:
    """The tracer of this process, by whichever name this package was loaded first."""
    for name in _NAMES:
        tracer = getattr(sys.modules.get(name), "TRACER", None)
        if tracer is not None and tracer.region is not None:
            found: Tracer = tracer
            return found
    return TRACER


def _slots(default: int) -> int:
    text = os.environ.get("AMIDIAG_TRACE_SLOTS", "")
    return min(max(int(text), 16), 1 << 22) if text.isdecimal() else default


TRACER = Tracer()
"""The one tracer of this copy of the package."""
