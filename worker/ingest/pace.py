"""How many tasks may be in hand at once: as many as can be answered before the server hands them out again."""

from __future__ import annotations

import math

# Of the visibility time so much is planned with: the rest is for what takes longer than it did, and for posting.
_SHARE = 0.6
# Before the speed is known as many are taken as would fit if each took so many seconds.
_FIRST_S = 4.0
# Weight of the newest measurement.
_WEIGHT = 0.5


class Pace:
    """The measured speed, from reservation to answer. `visibility_s` 0: no limit, as in the public worker."""

    def __init__(self, visibility_s: float) -> None:
        self.visibility_s = visibility_s
        self.per_second: float | None = None
        """Images answered per second, smoothed; None until something was."""

    def finished(self, images: int, seconds: float) -> None:
        """So many images were answered in so many seconds, waiting for them included."""
        if images < 1:
            return
        now = images / max(seconds, 1e-6)
        before = now if self.per_second is None else self.per_second
        self.per_second = _WEIGHT * now + (1 - _WEIGHT) * before

    def room(self, in_hand: int) -> int | None:
        """How many more tasks may be taken; None for any number. One is always allowed to an idle worker."""
        if not self.visibility_s:
            return None
        if self.per_second is None:
            most = math.ceil(self.visibility_s / _FIRST_S)
        else:
            most = int(self.per_second * self.visibility_s * _SHARE)
        return max(most, 1) - in_hand
