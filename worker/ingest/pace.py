"""How many tasks may be in hand at once: as many as can be answered before the server hands them out again."""

from __future__ import annotations

import math

# Of the visibility time so much is planned with: the rest is for what takes longer than it did, and for posting.
_SHARE = 0.6
# Before the speed is known as many are taken as would fit if each took so many seconds.
_FIRST_S = 4.0
# What remains of earlier measurements with each new one. Sums of images and of seconds, not speeds, are averaged:
# of several loaders batches come in pairs, one after a long wait and one at once.
_KEPT = 0.9


class Pace:
    """The measured speed, from reservation to answer. `visibility_s` 0: no limit, as in the public worker."""

    def __init__(self, visibility_s: float) -> None:
        self.visibility_s = visibility_s
        self._images = 0.0
        self._seconds = 0.0

    @property
    def per_second(self) -> float | None:
        """Images answered per second, of late; None until some were."""
        return self._images / self._seconds if self._images else None

    def finished(self, images: int, seconds: float) -> None:
        """So many images were worked on in so many seconds, waiting for them included. Failures say nothing."""
        if images < 1:
            return
        self._images = _KEPT * self._images + images
        self._seconds = _KEPT * self._seconds + max(seconds, 1e-6)

    def room(self, in_hand: int) -> int | None:
        """How many more tasks may be taken; None for any number. One is always allowed to an idle worker."""
        if not self.visibility_s:
            return None
        per_second = self.per_second
        if per_second is None:
            most = math.ceil(self.visibility_s / _FIRST_S)
        else:
            most = int(per_second * self.visibility_s * _SHARE)
        return max(most, 1) - in_hand
