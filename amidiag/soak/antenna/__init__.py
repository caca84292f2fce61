"""The embedded Antenna server: a real queue over real HTTP on loopback, in its own process.

It speaks ANTENNA_API.md to the worker, and lets a controller (a soak, a test) add jobs, hold polls,
make things fail, and see what was answered. Importing it needs nothing beyond the standard library;
serving images needs the extra `soak`.
"""

from amidiag.soak.antenna.server import AntennaServer
from amidiag.soak.antenna.words import (
    Answer,
    AntennaServerError,
    Delivery,
    FaultSpec,
    ImageSpec,
    JobSpec,
    JobState,
    Registration,
    ServerConfig,
    ServerState,
    TaskCounts,
    TaskStory,
)

__all__ = [
    "Answer",
    "AntennaServer",
    "AntennaServerError",
    "Delivery",
    "FaultSpec",
    "ImageSpec",
    "JobSpec",
    "JobState",
    "Registration",
    "ServerConfig",
    "ServerState",
    "TaskCounts",
    "TaskStory",
]
