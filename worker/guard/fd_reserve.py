"""A few FDs kept back, so that the last words can be said, and results written, at EMFILE."""

from __future__ import annotations


class FdReserve:
    """`count` FDs that stand for nothing. `release` gives them to the process, `renew` takes them back."""

    def __init__(self, count: int = 8) -> None:
        self._count = count

    def release(self) -> None:
        """Let go of them: from now on so many more can be opened."""

    def renew(self) -> None:
        """Take them back, as far as they can be had."""
