"""Call sites for people: whose line it is comes first, nothing is left out in silence, times are local."""

import io
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rich.console import Console

from amidiag.model import NotSeen, TraceData, TracedProcess, TraceFile, TraceFiles, TraceRow
from amidiag.report.trace_table import SHOWN, trace_list, trace_report

MAIN = "/srv/ami/main.py:3 <module>"
LOADER = "/srv/ami/loader.py:12 build"
ITERATOR = "/opt/lib/site-packages/torch/utils/data/dataloader.py:400 __init__"
START = "/usr/lib/python3.11/multiprocessing/process.py:121 start"
LAUNCH = "/usr/lib/python3.11/multiprocessing/popen_fork.py:64 _launch"

PIPES = TraceRow(
    group=LOADER,
    count=1398,
    bytes=0,
    by_type={"pipe": 1390, "socket": 8},
    by_process={"4711": 1398},
    first_at="2026-01-01T00:00:00+00:00",
    last_at="2026-01-02T00:00:00.250000+00:00",
    stack=(MAIN, LOADER, ITERATOR, START, LAUNCH),
)
SEGMENT = replace(PIPES, group=MAIN, count=1, bytes=3 * 2**20, by_type={"shm": 1}, stack=(MAIN,))
BOOKS = TracedProcess(4711, "2026-01-01T00:00:00+00:00", None, 0, 0, 0, 0, 0, None, 0)


def data(*rows: TraceRow, **parts: object) -> TraceData:
    known: dict = {"by": "site", "alive": True, "file": "/run/4711-1.trace", "since": None, "not_seen": None}
    return TraceData(rows=rows, processes=(BOOKS,), **(known | parts))  # type: ignore[arg-type]


def lines(of: TraceData | TraceFiles, *, full: bool = False, notes: tuple[str, ...] = ()) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    parts = trace_list(of) if isinstance(of, TraceFiles) else trace_report(of, "PID 4711", notes, full=full)
    for part in parts:
        console.print(part, soft_wrap=True)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture(autouse=True)
def _in_india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_the_programs_own_line_comes_first_and_library_frames_are_folded() -> None:
    shown = lines(data(PIPES))
    assert shown[0] == "PID 4711"
    assert shown[1] == "1,398 open or running, 1,398 of them seen being made at 1 place"
    place = [line.strip() for line in shown[-3:]]
    assert place == [LOADER, "… 2 library frames", LAUNCH]
    assert not any(MAIN in line for line in shown)


def test_one_library_frame_below_is_not_folded_and_none_is_said() -> None:
    one = lines(data(replace(PIPES, stack=(MAIN, LOADER, LAUNCH))))
    assert [line.strip() for line in one[-2:]] == [LOADER, LAUNCH]
    assert lines(data(SEGMENT))[-1].strip() == MAIN
    assert "library" not in "".join(one) + "".join(lines(data(SEGMENT)))


def test_full_is_the_whole_stack_as_a_traceback_has_it() -> None:
    assert [line.strip() for line in lines(data(PIPES), full=True)[-5:]] == [
        MAIN,
        f"> {LOADER}",
        ITERATOR,
        START,
        LAUNCH,
    ]


def test_figures_are_below_their_names() -> None:
    head, pipes, *_ = lines(data(PIPES, SEGMENT))[3:]
    assert [head.index(name) for name in ("what", "first made", "last made")] == [
        pipes.index("pipe 1,390, socket 8"),
        pipes.index("2026-01-01 05:30:00 ("),
        pipes.index("2026-01-02 05:30:00 ("),
    ]
    assert pipes.startswith("1,398  ")
    (segment,) = [line for line in lines(data(PIPES, SEGMENT)) if "shm 1" in line]
    assert segment.startswith("    1  shm 1")
    head = next(line for line in lines(data(PIPES, SEGMENT)) if "bytes" in line)
    assert segment.index("3.0 MiB") + len("3.0 MiB") == head.index("bytes") + len("bytes")
    # Made once: there is no last time beside the first; and where nothing has bytes there is no column.
    assert segment.count(" ago)") == 1
    assert "bytes" not in lines(data(PIPES))[3]


def test_what_was_made_today_needs_no_date() -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + 3600))
    now = lines(data(replace(SEGMENT, first_at=at)))
    assert any("(0.0 s ago)" in line for line in now)


def test_what_was_not_seen_is_a_row_of_its_own_at_the_bottom() -> None:
    unseen = NotSeen(14, 4096, {"socket": 10, "regular": 4}, {"4711": 14})
    shown = lines(data(PIPES, not_seen=unseen))
    assert shown[1].startswith("1,412 open or running, 1,398 of them seen being made")
    assert shown[-2].startswith("   14  socket 10, regular 4") and "4.0 KiB" in shown[-2]
    assert "not seen being made" in shown[-1]
    alone = lines(data(not_seen=unseen))
    assert "not seen being made" in alone[-1]


def test_many_rows_end_with_how_many_are_left_unless_all_are_wanted() -> None:
    rows = tuple(
        replace(PIPES, group=f"/srv/a.py:{n} f", count=2, stack=(f"/srv/a.py:{n} f",)) for n in range(25)
    )
    shown = lines(data(*rows))
    assert shown[-1] == "… 5 more places (10 open); --full shows them, --json has all of them"
    assert sum("/srv/a.py" in line for line in shown) == SHOWN
    full = lines(data(*rows), full=True)
    assert sum("/srv/a.py" in line for line in full) == 25
    assert "--json" not in "".join(full)
    types = lines(data(*rows[:21], by="type"))
    assert types[-1].startswith("… 1 more type (2 open)")


def test_a_tree_says_which_process_holds_how_many() -> None:
    shared = replace(PIPES, by_process={"4712": 98, "4711": 1300})
    assert lines(data(shared))[-1].strip() == "held by PID 4711 (1,300), PID 4712 (98)"
    assert "held by" not in "".join(lines(data(PIPES)))
    many = replace(PIPES, by_process={str(pid): 2 for pid in range(1, 9)})
    assert lines(data(many))[-1].endswith("PID 6 (2) and 2 more processes")


def test_other_rows_say_where_most_of_them_come_from() -> None:
    types = lines(data(replace(PIPES, group="pipe"), by="type"))
    assert [line.strip() for line in types[-3:]] == [f"mostly at {LOADER}", "… 2 library frames", LAUNCH]
    assert "pipe" not in [line.strip() for line in types]
    thread = replace(PIPES, group="thread 7 of process 4711")
    assert [line.strip() for line in lines(data(thread, by="thread"))[-4:-2]] == [
        thread.group,
        f"mostly at {LOADER}",
    ]


def test_a_row_without_a_stack_says_so() -> None:
    row = replace(PIPES, group="not kept: the table of call sites was full", stack=())
    assert lines(data(row))[-1].strip() == row.group


def test_nothing_open_is_an_answer() -> None:
    assert lines(data()) == ["PID 4711", "0 open or running, 0 of them seen being made"]


def test_a_post_mortem_is_said_to_be_an_upper_bound() -> None:
    shown = lines(data(PIPES, alive=False), notes=("left by worker.py",))
    assert shown[0] == "PID 4711  ended"
    assert shown[1] == "1,398 were made and are not known to have been closed: an upper bound at 1 place"
    assert shown[-1] == "note: left by worker.py"


def test_since_says_when() -> None:
    assert "only what was made since 2026-01-01 05:30:00" in lines(data(PIPES, since=PIPES.first_at))[1]


@pytest.mark.parametrize(
    ("books", "said"),
    [
        ({"no_slot": 12}, "PID 4711: 12 were dropped: the table was full (AMIDIAG_TRACE_SLOTS"),
        ({"no_site": 1}, "PID 4711: 1 are without their call site: the table of call sites was full"),
        ({"torn": 1}, "PID 4711: 1 entry being written at every reading (torn): left out"),
        ({"errors": 2}, "PID 4711: 2 errors in the tracer's hooks: what was being made was not recorded"),
        ({"untraced_forks": 3}, "PID 4711: 3 forks not traced: no region of the table was left"),
        ({"emfile": 4}, "PID 4711: 4 creations failed for want of FDs (EMFILE)"),
        ({"off_since": "2026-01-01T00:00:00+00:00"}, "PID 4711: tracing is off since 2026-01-01 05:30:00"),
    ],
)
def test_what_the_tracer_could_not_do_is_a_line_and_else_there_is_none(books, said) -> None:
    clean = lines(_with({}))
    assert lines(_with(books))[: len(clean)] == clean
    (line,) = lines(_with(books))[len(clean) :]
    assert line.startswith(said)


def _with(books: dict) -> TraceData:
    return replace(data(SEGMENT), processes=(replace(BOOKS, **books),))


def test_emfile_says_when_it_was_last() -> None:
    line = lines(_with({"emfile": 4, "emfile_at": "2026-01-01T00:00:00+00:00"}))[-1]
    assert "(EMFILE), last 2026-01-01 05:30:00 (" in line


def test_square_brackets_are_text() -> None:
    row = replace(SEGMENT, group="/srv/[bold]a.py:1 [/]f", stack=("/srv/[bold]a.py:1 [/]f",))
    assert lines(data(row))[-1].strip() == row.group


def test_the_list_has_the_command_for_each_table() -> None:
    live = TraceFile("/run/4711-1.trace", 4711, "worker.py", True, PIPES.first_at, PIPES.last_at, 2**20)
    dead = replace(live, path="/run/12-9.trace", pid=12, alive=False)
    shown = lines(TraceFiles((live, dead)))
    assert shown[1].split()[:3] == ["4711", "worker.py", "runs"]
    assert shown[1].endswith("1.0 MiB  amidiag trace 4711")
    assert shown[2].split()[:3] == ["12", "worker.py", "ended"]
    assert shown[2].endswith("amidiag trace /run/12-9.trace")
    assert lines(TraceFiles(())) == [
        "no call-site tables; `amidiag run COMMAND` or AMI_DIAG_TRACE=1 makes them"
    ]
    assert lines(TraceFiles((), ("/run/a.trace",)))[0] == "removed /run/a.trace"
