"""Pipelines: detectors and classifiers, built in or from files of the user.

What needs torch is imported when it is asked for: `ami worker register` and the parent of several workers do
without.
"""

from typing import TYPE_CHECKING, Any

from worker.pipelines.catalogue import PIPELINES, describe
from worker.pipelines.detection import Classification, Detection

if TYPE_CHECKING:
    from worker.pipelines.pipeline import Pipeline, load_pipeline

__all__ = ["PIPELINES", "Classification", "Detection", "Pipeline", "describe", "load_pipeline"]


def __getattr__(name: str) -> Any:
    if name in ("Pipeline", "load_pipeline"):
        from worker.pipelines import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
