"""A few FDs kept back, so that the last words can be said, and results written, at EMFILE."""

from __future__ import annotations

import os
import threading
import weakref


class FdReserve:
    """`count` FDs that stand for nothing. `release` gives them to the process, `renew` takes them back.

    From any thread. A forked child has none of them: it counts against a limit of its own, and what it needs
    to say why it ends is free there.
    """

    def __init__(self, count: int = 8) -> None:
        self._count = count
        self._held: list[int] = []
        self._lock = threading.Lock()
        _keep_out_of_forks(weakref.ref(self))
        self.renew()

    @property
    def held(self) -> int:
        """How many it has now."""
        return len(self._held)

    def release(self) -> None:
        """Let go of them: from now on so many more can be opened."""
        with self._lock:
            held, self._held = self._held, []
        for fd in held:
            os.close(fd)

    def renew(self) -> None:
        """Take them back, as far as they can be had."""
        with self._lock:
            while len(self._held) < self._count:
                try:
                    self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
                except OSError:
                    # What is left belongs to the work.
                    return


def _keep_out_of_forks(ref: weakref.ref[FdReserve]) -> None:
    def forget() -> None:
        reserve = ref()
        if reserve is not None:
            # Another thread of the parent may have held it, and is not here to give it back.
            reserve._lock = threading.Lock()
            reserve.release()
            reserve._count = 0

    os.register_at_fork(after_in_child=forget)
