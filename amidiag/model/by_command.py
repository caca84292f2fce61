"""Which class the `data` of a command is."""

from __future__ import annotations

from collections.abc import Mapping

from amidiag.model.fds import FdsData
from amidiag.model.series import RateData
from amidiag.model.settings import SettingsData
from amidiag.model.shm import ShmData
from amidiag.model.soak import RecipeList, SoakData
from amidiag.model.trace import TraceData, TraceFiles
from amidiag.model.tune import TuneData

DATA_OF: Mapping[str, type] = {
    "fds": FdsData,
    "shm": ShmData,
    "rate": RateData,
    "soak": SoakData,
    "soak list": RecipeList,
    "gate": SoakData,
    "worker settings": SettingsData,
    "worker tune": TuneData,
    "trace": TraceData,
    "trace list": TraceFiles,
}
"""The class of `data` by command."""
