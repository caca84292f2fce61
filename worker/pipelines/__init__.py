"""The built-in pipelines: detectors and classifiers in plain torch, with their weights."""

from worker.pipelines.catalogue import PIPELINES, describe
from worker.pipelines.detection import Classification, Detection
from worker.pipelines.pipeline import Pipeline, load_pipeline

__all__ = ["PIPELINES", "Classification", "Detection", "Pipeline", "describe", "load_pipeline"]
