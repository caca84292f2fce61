"""Which pipelines are in memory: loaded when they are needed, the one used longest ago given up for another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from worker.pipelines.device import give_back_memory, is_out_of_memory

if TYPE_CHECKING:
    from worker.pipelines.pipeline import Pipeline

log = logging.getLogger(__name__)


class ResidentPipelines:
    """At most `most` pipelines in memory (0: all that were asked for), made by `load` from their slugs.

    Whoever keeps a pipeline beyond the work on one batch keeps its memory too.
    """

    def __init__(self, load: Callable[[str], Pipeline], most: int) -> None:
        self._load = load
        self._most = most
        self._pipelines: dict[str, Pipeline] = {}

    def get(self, slug: str) -> Pipeline:
        """The pipeline `slug`. Another is given up before it is loaded, so that both are never there at once.

        Where the device has too little memory for it, all others are given up.

        Raises:
            whatever `load` does.
        """
        pipeline = self._pipelines.pop(slug, None)
        if pipeline is None:
            while self._most and len(self._pipelines) >= self._most:
                self._give_up(next(iter(self._pipelines)))
            pipeline = self._loaded(slug)
        # The last one is the one used last.
        self._pipelines[slug] = pipeline
        return pipeline

    def loaded(self) -> tuple[str, ...]:
        """The slugs of what is in memory, the one used longest ago first."""
        return tuple(self._pipelines)

    def _loaded(self, slug: str) -> Pipeline:
        try:
            return self._load(slug)
        except RuntimeError as e:
            if not is_out_of_memory(e) or not self._pipelines:
                raise
            log.warning("%s: too little memory on the device: the other pipelines are given up", slug)
        # Only here is the error, and with it what was loaded so far, gone.
        for other in self.loaded():
            self._give_up(other)
        return self._load(slug)

    def _give_up(self, slug: str) -> None:
        del self._pipelines[slug]
        give_back_memory()
        log.info("the pipeline %s was given up, %s stay", slug, len(self._pipelines))
