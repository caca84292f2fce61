"""How large an image may be and how long its download may take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from worker.http import READ_TIMEOUT_S
from worker.settings import WorkerSettings

# Less is no time for a download, however soon its task comes again.
_LEAST_S = 5.0
_LONGEST_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What one image may cost: bytes of its file, pixels of its picture, seconds of its download.

    `read_timeout_s`: for how long the server may send nothing. `patience_s`: for how long a server that is out of
    reach is tried again.
    """

    max_bytes: int
    max_pixels: int
    timeout_s: float
    read_timeout_s: float = READ_TIMEOUT_S
    patience_s: float = 0.0

    @classmethod
    def of(cls, settings: WorkerSettings) -> ImageLimits:
        """The limits that the settings name, and that leave time for an answer before the task comes again."""
        visibility = settings.visibility_timeout_s or math.inf
        return cls(
            settings.image_max_bytes,
            settings.image_max_pixels,
            min(settings.image_timeout_s, max(_LEAST_S, visibility * 2 / 3)),
            min(READ_TIMEOUT_S, max(_LEAST_S, visibility / 3)),
            min(_LONGEST_PATIENCE_S, visibility / 3),
        )
