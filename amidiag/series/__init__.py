"""Series of a resource over cycles, and what they allow to be said.

From the standard library and `amidiag.model` alone.
"""

from amidiag.series.certificate import certify, cycles_for, events_bound
from amidiag.series.driver import Driver, find_driver
from amidiag.series.forecast import forecast
from amidiag.series.sequential import Sequential
from amidiag.series.trough import TOLERANCE, judge

__all__ = [
    "TOLERANCE",
    "Driver",
    "Sequential",
    "certify",
    "cycles_for",
    "events_bound",
    "find_driver",
    "forecast",
    "judge",
]
