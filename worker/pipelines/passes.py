"""How many images go through a pipeline at once, learnt from passes that found too little memory."""

from __future__ import annotations

GROW_AFTER = 32
LONGEST = 64 * GROW_AFTER


class PassSize:
    """The most images per pass of one pipeline; `limit` is None until a pass has failed.

    After `GROW_AFTER` passes that were as large as allowed, twice as many are allowed; where that fails, the
    next try comes after twice as many passes.
    """

    def __init__(self) -> None:
        self.limit: int | None = None
        self._good = 0
        self._patience = GROW_AFTER
        self._has_grown = False

    def most(self, images: int) -> int:
        """How many of `images` to take."""
        return images if self.limit is None else min(images, self.limit)

    def failed(self, images: int) -> None:
        """A pass of `images` found too little memory: half of it from now on."""
        if self._has_grown:
            self._patience = min(2 * self._patience, LONGEST)
        self.limit = max(1, images // 2)
        self._good, self._has_grown = 0, False

    def worked(self, images: int) -> None:
        """A pass of `images` went well; smaller ones than allowed say nothing."""
        if self.limit is None or images < self.limit:
            return
        if self._has_grown:
            self._patience, self._has_grown = GROW_AFTER, False
        self._good += 1
        if self._good >= self._patience:
            self.limit *= 2
            self._good, self._has_grown = 0, True


class PassSizes:
    """The `PassSize` of each pipeline, by slug."""

    def __init__(self) -> None:
        self._sizes: dict[str, PassSize] = {}

    def of(self, slug: str) -> PassSize:
        """That of one pipeline; a new one is without a limit."""
        return self._sizes.setdefault(slug, PassSize())
