"""The words of amidiag as plain, frozen data classes.

This is the contract between the rooms and the source of the JSON that every command prints:
`amidiag schema` is generated from these classes. Sizes are bytes, times are seconds, and what
is not known is `None`, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA = "amidiag/1"

VerdictKind = Literal["leak", "growing", "stable", "undecided"]
Unit = Literal["fd", "thread", "byte"]
Severity = Literal["error", "warning", "info"]
CheckOutcome = Literal["passed", "failed", "undecided"]
Role = Literal["worker", "loader", "resource_tracker", "fork_server", "shm_manager", "other"]


class ExitCode:
    """What `amidiag` tells its caller (DESIGN.md, "What a user does with it")."""

    CLEAN = 0
    FINDING = 1
    USAGE = 2
    CANNOT_OBSERVE = 3
    UNDECIDED = 4


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, never a bare PID: PIDs are reused, start ticks within one boot are not.

    `start_ticks` is field 22 of `/proc/PID/stat` (proc_pid_stat(5)), in clock ticks since boot.
    """

    boot_id: str
    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class PeerCounts:
    """Who holds the opposite end of this process's pipe (or socket) descriptors, counted by descriptor.

    `nobody` is claimed only where every process of the machine could be read, or the kernel itself
    says that no far end exists (procfs/probe.py); otherwise an unmatched end counts as `unknown`.
    `self` means that no other process holds the opposite end.
    """

    self: int = 0
    tree: int = 0
    other: int = 0
    nobody: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class FdTable:
    """The open FDs of one process. `by_type` and `peers` are None where they were not read."""

    open: int | None
    soft_limit: int | None
    hard_limit: int | None
    by_type: Mapping[str, int] | None
    peers: Mapping[str, PeerCounts] | None


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Resident memory of one process, in bytes (`/proc/PID/status`: VmRSS, RssAnon, RssFile, RssShmem)."""

    rss: int | None
    anonymous: int | None
    file: int | None
    shmem: int | None


@dataclass(frozen=True, slots=True)
class ShmUse:
    """Shared memory of one process, in bytes.

    `rss` is what the kernel calls RssShmem; `held` counts every segment that is mapped or held
    open by an FD, once each, by allocated blocks. `by_kind` splits `held`.
    """

    rss: int | None
    held: int | None
    by_kind: Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class Counters:
    """How often the worker has done what, since it started.

    A job counts once its first task has been taken; a poll is one `GET /jobs`.
    """

    polls: int = 0
    jobs: int = 0
    loaders: int = 0
    batches: int = 0
    images: int = 0
    posts: int = 0


@dataclass(frozen=True, slots=True)
class StatusView:
    """What the worker says of itself on its status page. `progress_age` is in seconds."""

    state: str
    progress_age: float | None
    counters: Counters
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProcessObservation:
    """One process at one instant."""

    pid: int
    start_ticks: int
    started_at: str
    name: str
    role: Role
    parent_pid: int | None
    threads: int | None
    fds: FdTable
    memory: MemoryUse
    shm: ShmUse
    status: StatusView | None


@dataclass(frozen=True, slots=True)
class DevShm:
    """`/dev/shm` as the target sees it, in bytes. `orphans` is None where they were not looked for."""

    size: int | None
    used: int | None
    orphans: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TreeUse:
    """What belongs to the whole tree, shared memory counted once by (device, inode)."""

    shm_unique: int | None
    shm_unique_is_lower_bound: bool | None
    dev_shm: DevShm | None


@dataclass(frozen=True, slots=True)
class Observation:
    """One tree at one instant: pure data, no judgement.

    `at` is CLOCK_MONOTONIC, in seconds. `processes[0]` is the root of the tree.
    """

    host: str
    boot_id: str
    at: float
    processes: tuple[ProcessObservation, ...]
    tree: TreeUse
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a series allows to be said.

    Attributes:
        kind: `leak`, `growing` (rising, may still settle), `stable` (certified below a bound)
            or `undecided`.
        rate: growth per sample, in the unit of the series; None where no estimate is possible.
        low, high: ends of the interval of `rate` at `confidence`.
        upper_bound: one-sided bound of the growth per sample that `stable` certifies.
        samples_needed: with `undecided` and `growing`, how many further samples are needed.
        evidence: the figures behind it, and what would refute it, for people.
    """

    kind: VerdictKind
    unit: Unit
    samples: int
    rate: float | None
    low: float | None
    high: float | None
    upper_bound: float | None
    samples_needed: int | None
    confidence: float = 0.95
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rate:
    """Growth per one step of a counter, or per second, with its interval."""

    per: str
    value: float
    low: float
    high: float
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class Exhaustion:
    """When a limit is reached if growth goes on as measured, in seconds from the last sample."""

    limit: str
    in_seconds: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class SeriesReport:
    """The judgement of one resource of one process over time or over counters.

    `driver` is the counter that growth follows, `driver_tied` those that the evidence cannot tell apart from it.
    """

    pid: int | None
    resource: str
    verdict: VerdictKind
    driver: str | None
    cycles: int
    rate: Rate | None
    upper_bound: float | None
    samples_needed: int | None
    exhausts: Exhaustion | None
    evidence: tuple[str, ...] = ()
    driver_tied: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CallSite:
    """How many open resources came from one stack (`file:line function`, innermost last)."""

    count: int
    stack: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mitigation:
    """A setting and its new value. `proven` is None where no experiment was made."""

    dialect: str
    setting: str
    value: str
    why: str
    costs: str
    proven: bool | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict or a state with a cause, its evidence and what to do about it."""

    code: str
    title: str
    severity: Severity
    pid: int | None
    resource: str | None
    cause: str
    evidence: tuple[str, ...] = ()
    call_sites: tuple[CallSite, ...] = ()
    mitigations: tuple[Mitigation, ...] = ()
    url: str | None = None


@dataclass(frozen=True, slots=True)
class RateData:
    """What only `rate` has: how long it watched, in seconds, how often, and the polls seen (None: no status page)."""

    seconds: float
    samples: int
    polls: int | None


@dataclass(frozen=True, slots=True)
class Certificate:
    """Fewer than `events_per_cycle_bound` leak events per cycle, at `confidence`, after `cycles` without one."""

    cycles: int
    events_per_cycle_bound: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Quality:
    """Detections against what was planted, at IoU 0.5. Shares are None where there was nothing to divide by."""

    precision: float | None
    recall: float | None
    kind_accuracy: float | None
    planted: int
    found: int
    matched: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The tasks of a soak by what became of them; `quality` is None where no image held an insect."""

    tasks: int
    answered_once: int
    answered_twice: int
    lost: int
    unanswered: int
    errors: int
    broken: int
    broken_answered_as_result: int
    intact_answered_as_error: int
    redelivered: int
    quality: Quality | None


@dataclass(frozen=True, slots=True)
class ResourceValues:
    """A series as it was sampled, one value per cycle, None where it was not read."""

    resource: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class ArmData:
    """One arm of a soak. `shown` is whether it met `expected`, None where nothing is expected of it.

    `time_compression` is how many times faster its cycles followed each other than an idle worker polls.
    """

    name: str
    pid: int | None
    verdict: VerdictKind
    expected: VerdictKind | None
    shown: bool | None
    cycles: int
    seconds: float
    time_compression: float
    certificate: Certificate | None
    counters: Counters | None
    faults: Mapping[str, str]
    settings: Mapping[str, Any]
    answered: Answered
    series: tuple[ResourceValues, ...]
    worker_exit_status: int


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One rule on one arm: how it ended, the figures behind it, and how long the arm took in seconds."""

    arm: str
    name: str
    outcome: CheckOutcome
    message: str
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class SoakData:
    """What only `soak` and `gate` have; `gate` is None for `soak`."""

    recipe: str
    seed: int
    answers: str | None
    arms: tuple[ArmData, ...]
    gate: tuple[GateCheck, ...] | None = None


@dataclass(frozen=True, slots=True)
class RecipeList:
    """What `soak list` has: the names of the shipped recipes."""

    recipes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SettingEntry:
    """One setting of the worker: its effective value (masked where secret), and where that comes from."""

    name: str
    value: Any
    default: Any
    source: str
    allowed: str
    doc: str
    secret: bool


@dataclass(frozen=True, slots=True)
class UnknownSetting:
    """An `AMI_` variable that nobody reads, with the nearest name that somebody does."""

    name: str
    nearest: str | None
    source: str


@dataclass(frozen=True, slots=True)
class SettingProblem:
    """One setting that cannot be used. `value` is None where it must not be shown or there is none."""

    setting: str
    value: str | None
    allowed: str
    source: str


@dataclass(frozen=True, slots=True)
class SettingsData:
    """What `ami worker settings` has. `unused` names upstream variables that this worker has no use for."""

    settings: tuple[SettingEntry, ...] = ()
    unused: tuple[str, ...] = ()
    unknown: tuple[UnknownSetting, ...] = ()
    problems: tuple[SettingProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class TraceRow:
    """What is open now and was made at one place (or is of one type, thread or process: `TraceData.by`).

    Attributes:
        group: what the row stands for: `file:line function` of the program's own frame, or a type, a
            thread or a process.
        count: how many are open: FDs, segments that are only mapped, threads, child processes.
        bytes: allocated bytes of the shared memory among them, each segment once; None where not known.
        by_type: the count by type, as `fds` names them, plus `thread`, `process` and `semaphore`.
        by_process: the count by the PID that holds them.
        first_at, last_at: when the first and the last of them were made.
        stack: `file:line function`, innermost last, as far as it was kept (16 frames); that of the most
            where the row has several.
    """

    group: str
    count: int
    bytes: int | None
    by_type: Mapping[str, int]
    by_process: Mapping[str, int]
    first_at: str
    last_at: str
    stack: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotSeen:
    """What is open and was not seen being made: by C code, before tracing began, or dropped. Never guessed."""

    count: int
    bytes: int | None
    by_type: Mapping[str, int]
    by_process: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TracedProcess:
    """The tracer's own books on one process, so that nothing is left out in silence.

    Attributes:
        since: when tracing began there. `off_since`: when it was switched off, None while it is on.
        no_slot, no_site: resources not recorded, or without their call site, because the table was full.
        torn: slots that were being written at every reading.
        errors: errors swallowed in hooks.
        emfile: creations that failed for want of FDs; `emfile_at`: the last of them.
        untraced_forks: forked children for which no region was left.
    """

    pid: int
    since: str
    off_since: str | None
    no_slot: int
    no_site: int
    torn: int
    errors: int
    emfile: int
    emfile_at: str | None
    untraced_forks: int


@dataclass(frozen=True, slots=True)
class TraceData:
    """What only `trace` has. `alive` is False for a post-mortem: there `rows` are what was made and not
    known to be closed, an upper bound, and `not_seen` is None."""

    by: Literal["site", "type", "thread", "process"]
    alive: bool
    file: str | None
    since: str | None
    rows: tuple[TraceRow, ...]
    not_seen: NotSeen | None
    processes: tuple[TracedProcess, ...]


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A call-site table on disk, in bytes and ISO times. `alive`: its process still runs."""

    path: str
    pid: int
    program: str
    alive: bool
    made_at: str
    written_at: str
    size: int


@dataclass(frozen=True, slots=True)
class TraceFiles:
    """What `trace` without a PID has: the tables of this user. `removed`: those that `--clean` took away."""

    files: tuple[TraceFile, ...]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FdGroup:
    """FDs of one process that a person would call by one name; 65,501 orphaned pipe ends are one group.

    Attributes:
        type: as in `FdTable.by_type`.
        what: what they lead to: `pipe`, `tcp 10.0.0.7:51234 → 10.0.0.5:443 CLOSE_WAIT`, `/dev/nvidia*`,
            `memfd:arena`, `/dev/shm/torch_*`, a path.
        mode: `r`, `w`, `rw` or `path` (O_PATH) as they were opened; None where not read.
        peer: who holds the opposite end (`PeerCounts`); None for what has no other end.
        peer_processes: where `peer` is `tree` or `other`: how many of the group by the PID of a holder.
        inherited: how many are copies of an end that another process of the tree holds as well.
        bytes: allocated bytes of the shared memory among them, each segment once; else None.
        fds: the first FDs of the group.
    """

    type: str
    what: str
    mode: str | None
    count: int
    peer: str | None
    peer_processes: Mapping[str, int]
    inherited: int
    bytes: int | None
    fds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CgroupMemory:
    """The memory cgroup that binds a process, in bytes: the tightest limit on its path upwards.

    `pressure` is the share of time, in the last 10 seconds, in which some task waited for memory (PSI).
    None where the kernel does not say, or there is no limit.
    """

    path: str
    version: Literal[1, 2]
    limit: int | None
    used: int | None
    pressure: float | None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What bounds a process beside its own FD limit. Bytes; None where it cannot be read.

    Attributes:
        nr_open: the most that `hard_limit` may be raised to (`fs.nr_open`).
        files_open, files_max: FDs of the whole machine and their limit (`fs.file-nr`).
        dev_shm_mount: file system and options of /dev/shm as the process sees it.
        namespace_pid: its PID inside its own PID namespace, where that is another one.
        own_mount_namespace, own_pid_namespace: whether it lives in namespaces other than the reader's.
    """

    nr_open: int | None
    files_open: int | None
    files_max: int | None
    memory_total: int | None
    memory_available: int | None
    cgroup: CgroupMemory | None
    dev_shm: DevShm | None
    dev_shm_mount: str | None
    namespace_pid: int | None
    own_mount_namespace: bool
    own_pid_namespace: bool


@dataclass(frozen=True, slots=True)
class ThreadGroup:
    """Threads of one process with the same name, state (proc_pid_stat(5)) and kernel function waited in."""

    name: str
    state: str
    waits_in: str | None
    count: int


@dataclass(frozen=True, slots=True)
class ProcessDetail:
    """What `fds` has of one process beyond the common part. `state` is R, S, D, T, t, Z or I."""

    pid: int
    state: str
    groups: tuple[FdGroup, ...] | None
    threads: tuple[ThreadGroup, ...] | None
    surroundings: Surroundings | None


@dataclass(frozen=True, slots=True)
class FdsData:
    """What only `fds` has. `since`: when the mark was saved that this is compared with: only what is new."""

    processes: tuple[ProcessDetail, ...]
    since: str | None = None


@dataclass(frozen=True, slots=True)
class SegmentUse:
    """One piece of shared memory, in bytes.

    Attributes:
        name: as the kernel has it, without ` (deleted)`. `deleted`: it has no name any more.
        size: as it was given; `allocated`: in memory or swap.
        mapped_by, held_by: PIDs of those that map it, or hold it open by an FD.
        in_flight: held by FDs and mapped by nobody: a queued batch, say.
        creator: PID in its name, or the SysV creator; `creator_alive` None where there is none.
        age: seconds since it was made.
    """

    name: str
    kind: str
    deleted: bool
    size: int | None
    allocated: int | None
    mapped_by: tuple[int, ...]
    held_by: tuple[int, ...]
    in_flight: bool
    creator: int | None
    creator_alive: bool | None
    age: float | None


@dataclass(frozen=True, slots=True)
class Orphan:
    """A named segment that no live process maps or holds.

    `unfinished`: of full size with nothing allocated, left between its creation and its first use.
    `certain` is False where some process could not be seen: such a segment is never removed.
    """

    name: str
    kind: str
    size: int | None
    allocated: int | None
    age: float | None
    owner: int | None
    creator: int | None
    creator_alive: bool | None
    unfinished: bool
    certain: bool


@dataclass(frozen=True, slots=True)
class ShmData:
    """What only `shm` has. `in_flight`: bytes that only FDs hold. `removed`: by `--reap`, `kept`: name → why."""

    segments: tuple[SegmentUse, ...]
    in_flight: int | None
    orphans: tuple[Orphan, ...]
    removed: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NoData:
    """A command that has nothing beyond the common parts."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every command's `--json` prints, one object on standard output and nothing else there."""

    command: str
    generated_at: str
    host: str
    exit_code: int
    processes: tuple[ProcessObservation, ...] = ()
    tree: TreeUse | None = None
    series: tuple[SeriesReport, ...] = ()
    findings: tuple[Finding, ...] = ()
    data: (
        FdsData | ShmData | RateData | SoakData | RecipeList | SettingsData | TraceData | TraceFiles | NoData
    ) = field(default_factory=NoData)
    notes: tuple[str, ...] = ()
    schema: str = SCHEMA


DATA_OF: Mapping[str, type] = {
    "fds": FdsData,
    "shm": ShmData,
    "rate": RateData,
    "soak": SoakData,
    "soak list": RecipeList,
    "gate": SoakData,
    "worker settings": SettingsData,
    "trace": TraceData,
    "trace list": TraceFiles,
}
"""The class of `data` by command."""
