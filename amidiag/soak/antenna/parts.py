"""The parts of one server, put together from its configuration."""

from __future__ import annotations

from dataclasses import dataclass

from amidiag.soak.antenna.faults import FaultBox
from amidiag.soak.antenna.image_store import ImageStore
from amidiag.soak.antenna.job_board import JobBoard
from amidiag.soak.antenna.meter import Meter
from amidiag.soak.antenna.poll_gate import PollGate
from amidiag.soak.antenna.queue_clock import QueueClock
from amidiag.soak.antenna.registry import Registry
from amidiag.soak.antenna.task_queue import TaskQueue
from amidiag.soak.antenna.words import ServerConfig


@dataclass(frozen=True, slots=True)
class Parts:
    """What the calls of the worker and the words of the controller both act on."""

    config: ServerConfig
    clock: QueueClock
    queue: TaskQueue
    board: JobBoard
    images: ImageStore
    gate: PollGate
    faults: FaultBox
    registry: Registry
    meter: Meter

    @classmethod
    def of(cls, config: ServerConfig) -> Parts:
        clock = QueueClock()
        queue = TaskQueue(config.visibility_timeout_s, config.max_deliver, clock)
        return cls(
            config=config,
            clock=clock,
            queue=queue,
            board=JobBoard(queue, config.seed),
            images=ImageStore(config.image_cache_bytes),
            gate=PollGate(),
            faults=FaultBox(config.seed),
            registry=Registry(),
            meter=Meter(),
        )
