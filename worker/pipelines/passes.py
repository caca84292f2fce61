"""How many images go through a pipeline at once, learnt from passes that found too little memory."""

from __future__ import annotations

GROW_AFTER = 32
LONGEST = 64 * GROW_AFTER


class PassSize:
    """The images per pass of one pipeline. No limit until a pass has failed.

    After `GROW_AFTER` passes that were as large as allowed, twice as many are tried; where that fails too, the
    next try comes after twice as many passes.
    """

    def __init__(self) -> None:
        self.limit: int | None = None
        self._good = 0
        self._patience = GROW_AFTER

    def most(self, images: int) -> int:
        """How many of `images` to take."""
        return images if self.limit is None else min(images, self.limit)

    def failed(self, images: int) -> None:
        """A pass of `images` found too little memory: half of it from now on."""
        if self.limit is not None and self._good == 0:
            # It had just grown.
            self._patience = min(2 * self._patience, LONGEST)
        self.limit, self._good = max(1, images // 2), 0

    def worked(self, images: int, waiting: int) -> None:
        """A pass of `images` went well, of `waiting` that could have been taken."""
        if self.limit is None or images < self.limit:
            return
        self._good += 1
        if self._good >= self._patience:
            # Without a limit where the last step would be past everything that comes.
            self.limit = None if self.limit >= waiting else 2 * self.limit
            self._good = 0


class PassSizes:
    """The `PassSize` of each pipeline, by slug."""

    def __init__(self) -> None:
        self._sizes: dict[str, PassSize] = {}

    def of(self, slug: str) -> PassSize:
        return self._sizes.setdefault(slug, PassSize())
