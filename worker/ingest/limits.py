"""How large an image may be and how long its download may take."""

from __future__ import annotations

from dataclasses import dataclass

from worker.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What one image may cost: bytes of its file, pixels of its picture, seconds of its download."""

    max_bytes: int
    max_pixels: int
    timeout_s: float

    @classmethod
    def of(cls, settings: WorkerSettings) -> ImageLimits:
        """The limits that the settings name."""
        return cls(settings.image_max_bytes, settings.image_max_pixels, settings.image_timeout_s)
