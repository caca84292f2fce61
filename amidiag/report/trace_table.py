"""Call sites of what is open, for people: the places with their figures, what was not seen, and the tables on disk."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from rich.console import RenderableType
from rich.text import Text

from amidiag.attach.own_frame import own_frame
from amidiag.model import NotSeen, TraceData, TracedProcess, TraceFile, TraceFiles, TraceRow
from amidiag.report.frames import parse
from amidiag.report.words import count, duration, size

SHOWN = 20
"""Rows that are printed unless all are asked for."""
_PLACES = {"site": "place", "type": "type", "thread": "thread", "process": "process"}
_NOT_SEEN = "not seen being made: by C code, before tracing began, or not recorded"


def trace_report(
    data: TraceData, title: str, notes: Iterable[str], *, full: bool
) -> Iterator[RenderableType]:
    """Heading, the rows (the first of them unless `full`), what was not seen, the tracer's books, notes."""
    yield _heading(data, title)
    yield from _rows(data, full=full)
    yield from remarks(data, notes)


def remarks(data: TraceData, notes: Iterable[str]) -> Iterator[RenderableType]:
    """What the tracer could not do, where there is anything, and the notes."""
    for process in data.processes:
        for line in _books(process):
            yield Text(f"PID {process.pid}: {line}", style="yellow")
    for note in notes:
        yield Text(f"note: {note}", style="dim")


def trace_list(data: TraceFiles) -> Iterator[RenderableType]:
    """The tables of this user, those of running processes first, each with the command that reads it."""
    for path in data.removed:
        yield Text(f"removed {path}")
    if not data.files:
        yield Text("no call-site tables; `amidiag run COMMAND` or AMI_DIAG_TRACE=1 makes them")
        return
    names = ("PID", "program", "", "tracing since", "last written", "size", "read it with")
    cells = [_file_cells(file) for file in data.files]
    head, *rows = _aligned([names, *cells])
    yield Text(head, style="dim")
    for file, row in zip(data.files, rows, strict=True):
        yield Text(row, style="" if file.alive else "dim")


def _file_cells(file: TraceFile) -> tuple[str, ...]:
    state = "runs" if file.alive else "ended"
    how = f"amidiag trace {file.pid if file.alive else shlex.quote(file.path)}"
    return str(file.pid), file.program, state, when(file.made_at), when(file.written_at), size(file.size), how


def _heading(data: TraceData, title: str) -> Text:
    seen = sum(row.count for row in data.rows)
    text = Text(title, style="bold")
    if data.alive:
        unseen = data.not_seen.count if data.not_seen else 0
        text.append(f"\n{count(seen + unseen)} open or running, {count(seen)} of them seen being made")
    else:
        text.append("  ended", style="not bold")
        text.append(f"\n{count(seen)} were made and are not known to have been closed: an upper bound")
    text.append(f" at {_plural(len(data.rows), 'place')}" if data.by == "site" and data.rows else "")
    if data.since is not None:
        text.append(f"; only what was made since {when(data.since)}", style="not bold")
    return text


def _rows(data: TraceData, *, full: bool) -> Iterator[RenderableType]:
    shown = data.rows if full else data.rows[:SHOWN]
    unseen = data.not_seen if data.not_seen and data.not_seen.count else None
    if not shown and unseen is None:
        return
    several = len({pid for row in (*data.rows, unseen) if row for pid in row.by_process}) > 1
    lines = [_figures(row) for row in (*shown, unseen) if row]
    names = ("count", "what", "bytes", "first made", "last made")
    head, *figures = _aligned([names, *lines])
    yield Text("\n" + head, style="dim")
    for row, line in zip(shown, figures, strict=False):
        yield Text(line)
        yield from _place(row, data.by, full=full)
        if several and data.by != "process":
            yield _holders(row)
    left = data.rows[len(shown) :]
    if left:
        more = f"… {_plural(len(left), _PLACES[data.by], 'more ')} ({count(sum(r.count for r in left))} open)"
        yield Text(f"{more}; --full shows them, --json has all of them", style="dim")
    if unseen is not None:
        yield Text(figures[-1])
        yield Text(f"{_INDENT}{_NOT_SEEN}", style="yellow")
        if several:
            yield _holders(unseen)


_INDENT = " " * 7
# Processes in a row, before it says how many more.
_NAMED = 6
_NUMBERS = ("count", "bytes", "PID", "size")


def _figures(row: TraceRow | NotSeen) -> tuple[str, ...]:
    held = "" if row.bytes == 0 else size(row.bytes)
    if isinstance(row, NotSeen):
        return count(row.count), _shares(row.by_type), held, "", ""
    last = when(row.last_at) if row.count > 1 else ""
    return count(row.count), _shares(row.by_type), held, when(row.first_at), last


def _holders(row: TraceRow | NotSeen) -> Text:
    """Who has how many, most first, as far as they are few."""
    by = sorted(row.by_process.items(), key=lambda item: (-item[1], item[0]))
    text = ", ".join(f"PID {pid} ({count(n)})" for pid, n in by[:_NAMED])
    more = f" and {_plural(len(by) - _NAMED, 'more process')}" if len(by) > _NAMED else ""
    return Text(f"{_INDENT}held by {text}{more}", style="dim")


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """The cells of all lines below each other; a column with nothing but its name is left out."""
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    # Numbers end at the same place, words begin there.
    right = [column[0] in _NUMBERS for column in columns]
    return [
        "  ".join(
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)
        ).rstrip()
        for cells in zip(*columns, strict=True)
    ]


def _place(row: TraceRow, by: str, *, full: bool) -> Iterator[Text]:
    """What the row stands for, where its figures do not say that, and the stack, that of the most of them."""
    if by in ("thread", "process") or not row.stack:
        yield Text(f"{_INDENT}{row.group}", style="bold")
    own = row.group if by == "site" else _own(row.stack)
    mostly = "" if by == "site" else "mostly at "
    if full or own not in row.stack:
        for frame in row.stack:
            yield Text(f"{_INDENT}{'> ' if frame == own else '  '}{frame}", style=_bold(frame == own))
        return
    yield Text(f"{_INDENT}{mostly}{own}", style=_bold(by == "site"))
    # The innermost call of the program's own frame: recursion may have it several times.
    inside = row.stack[len(row.stack) - row.stack[::-1].index(own) :]
    if len(inside) > 1:
        yield Text(f"{_INDENT}  … {_plural(len(inside) - 1, 'library frame')}", style="dim")
    if inside:
        yield Text(f"{_INDENT}  {inside[-1]}")


def _bold(yes: bool) -> str:
    return "bold" if yes else ""


def _own(stack: Sequence[str]) -> str:
    """The program's own frame of a stack (innermost last)."""
    frames = [frame for frame in map(parse, reversed(stack)) if frame is not None]
    return str(own_frame(frames)) if frames else ""


def _books(process: TracedProcess) -> Iterator[str]:
    """What the tracer could not do there, one line each; nothing where it could do everything."""
    if process.off_since is not None:
        yield f"tracing is off since {when(process.off_since)}: what was made later was not seen"
    if process.no_slot:
        more = "AMIDIAG_TRACE_SLOTS, at its start, makes room for more"
        yield f"{count(process.no_slot)} were dropped: the table was full ({more})"
    if process.no_site:
        yield f"{count(process.no_site)} are without their call site: the table of call sites was full"
    if process.torn:
        yield f"{_plural(process.torn, 'entry')} being written at every reading (torn): left out"
    if process.errors:
        yield f"{_plural(process.errors, 'error')} in the tracer's hooks: what was being made was not recorded"
    if process.untraced_forks:
        yield f"{_plural(process.untraced_forks, 'fork')} not traced: no region of the table was left"
    if process.emfile:
        last = f", last {when(process.emfile_at)}" if process.emfile_at else ""
        yield f"{_plural(process.emfile, 'creation')} failed for want of FDs (EMFILE){last}"


def when(at: str) -> str:
    """A time in ISO 8601 as people read it here: local, without the day where that is today's, and its age."""
    moment, now = datetime.fromisoformat(at).astimezone(), datetime.now().astimezone()
    local = moment.strftime("%H:%M:%S" if moment.date() == now.date() else "%Y-%m-%d %H:%M:%S")
    # A clock that was set back makes no age below 0.
    return f"{local} ({duration(max(0.0, (now - moment).total_seconds()))} ago)"


def _shares(by: Mapping[str, int]) -> str:
    """`pipe 398, socket 2`, most first."""
    return ", ".join(f"{name} {count(n)}" for name, n in sorted(by.items(), key=lambda i: (-i[1], i[0])) if n)


_PLURALS = {"entry": "entries", "process": "processes", "more process": "more processes"}


def _plural(number: int, noun: str, more: str = "") -> str:
    return f"{count(number)} {more}{noun if number == 1 else _PLURALS.get(noun, noun + 's')}"
