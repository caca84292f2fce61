"""The words of amidiag as plain, frozen data classes.

This is the contract between the rooms and the source of the JSON that every command prints:
`amidiag schema` is generated from these classes. Sizes are bytes, times are seconds, and what
is not known is `None`, never 0.

A class is made when it is first asked for (PEP 562): 50 data classes cost 20 to 30 ms, and no command
needs more than a third of them. A new class goes into the file of its subject and into `_NAMES`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amidiag.model.by_command import *  # noqa: F403
    from amidiag.model.envelope import *  # noqa: F403
    from amidiag.model.fds import *  # noqa: F403
    from amidiag.model.findings import *  # noqa: F403
    from amidiag.model.process import *  # noqa: F403
    from amidiag.model.series import *  # noqa: F403
    from amidiag.model.settings import *  # noqa: F403
    from amidiag.model.shm import *  # noqa: F403
    from amidiag.model.soak import *  # noqa: F403
    from amidiag.model.trace import *  # noqa: F403
    from amidiag.model.tune import *  # noqa: F403
    from amidiag.model.words import *  # noqa: F403

_NAMES = {
    "words": "SCHEMA VerdictKind Unit Severity CheckOutcome Role ExitCode",
    "process": "Identity PeerCounts FdTable MemoryUse ShmUse Counters Health StatusView ProcessObservation DevShm "
    "TreeUse Observation",
    "series": "Verdict Rate Exhaustion SeriesReport RateData",
    "findings": "CallSite Mitigation Finding",
    "soak": "Certificate Quality Answered ResourceValues FlatCheck ArmData GateCheck SoakData RecipeList",
    "settings": "SettingEntry UnknownSetting SettingProblem SettingsData",
    "tune": "TuneMachine TuneSample MemoryForecast TunedSetting TuneData",
    "trace": "TraceRow NotSeen TracedProcess TraceData TraceFile TraceFiles",
    "fds": "FdGroup CgroupMemory Surroundings ThreadGroup ProcessDetail FdsData",
    "shm": "SegmentUse Orphan ShmData",
    "envelope": "NoData Envelope",
    "by_command": "DATA_OF",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

if not TYPE_CHECKING:  # To mypy it would be every name that anyone could ask for.

    def __getattr__(name: str) -> Any:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(_MODULE_OF)
