"""The tracer's answer beside the truth, one open thing after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from open_things import KINDS, Thing, list_things, tree
from witness_log import Came, Place, Truth

from amidiag.attach.call_sites import Opened, TraceReading, read_trace
from amidiag.attach.grouping import group
from amidiag.attach.own_frame import own_frame

PROGRAMS = str(Path(__file__).parent / "programs")
# Of 16 frames up to 3 may be the tracer's own.
_FEWEST, _MOST_SKIPPED = 13, 3
_LIBRARY = ("/lib/python3", "/site-packages/", "<frozen ", "/bin/")
_SEEN = "right", "other line of the library"


@dataclass(frozen=True)
class Fit:
    """Where the tracer's stack stands in the truth.

    `skipped`: how many inner library frames of the truth the tracer leaves out, since it watches the
    function that they belong to. `other_thread`: it is not that of the thread which noticed the thing.
    `pid`: the process that it came to be open in there.
    """

    word: str
    stack: tuple[Place, ...]
    skipped: int
    other_thread: bool
    pid: int


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one open thing.

    Words: `right`; `other line of the library` (right function and callers, but the line inside the library's
    innermost function is that of its next step); `wrong`; `not seen`; `not Python` (and not attributed);
    `not Python, attributed`; `not judged` (came while torch was imported); `vanished` (open, but in no row).
    """

    thing: Thing
    word: str
    by_python: bool
    came: tuple[Came, ...] = ()
    opened: Opened | None = None
    fit: Fit | None = None

    @property
    def counted(self) -> bool:
        """Whether it is of the kinds that issue 3 names."""
        return self.thing.kind in KINDS

    def __str__(self) -> str:
        thing, made = self.thing, self.opened.made if self.opened else None
        said = _short([(f.file, f.line, f.function) for f in made.stack]) if made else "nothing"
        truth = "; or ".join(f"{_short(c.stacks[0])} after {c.function}" for c in self.came) or "nothing"
        at = thing.fd if thing.fd is not None else f"{thing.address:#x}"
        return f"{self.word}: {thing.target} at {at} of {thing.pid}\n  truth: {truth}\n  said:  {said}"


def _short(stack: Sequence[Place]) -> str:
    return " < ".join(f"{Path(file).name}:{line} {function}" for file, line, function in stack[:5])


@dataclass
class Judgement:
    """All of one moment.

    `invented`: in the reading, and not open. `not_seen_row`: by type. `own_fds`: how many FDs are the
    witnesses' own, which stand in that row too; `witness_errors`: what went wrong in them.
    """

    verdicts: list[Verdict]
    invented: list[Opened]
    reading: TraceReading
    not_seen_row: Counter[str]
    own_fds: int
    witness_errors: list[str]
    user_lines: Counter[str] = field(default_factory=Counter)

    def words(self, *, counted: bool = True) -> Counter[str]:
        """How many of each word, among what Python code has made."""
        return Counter(v.word for v in self.verdicts if v.by_python and v.counted == counted)

    @property
    def share(self) -> float:
        """Of what Python code has made, how much is attributed to the right line."""
        words = self.words()
        return sum(words[word] for word in _SEEN) / max(1, sum(words.values()))

    def of(self, *words: str) -> list[Verdict]:
        """Those with one of these words."""
        return [v for v in self.verdicts if v.word in words]


def judge(root: int, log: Path, reading: TraceReading | None = None) -> Judgement:
    """Compare what `read_trace` says of the tree with the witnesses' notes. The tree must be at rest."""
    truth = Truth(log)
    things = [thing for pid, parent in sorted(tree(root).items()) for thing in list_things(pid, parent)]
    reading = reading or read_trace(root, tree=True)
    spare = {_place(opened): opened for opened in reading.opened if opened.type not in ("thread", "process")}
    verdicts = []
    for thing in things:
        opened = spare.pop(_where(thing), None)
        if not truth.is_own(thing):
            verdicts.append(_verdict(thing, opened, truth))
    _, not_seen = group(reading)
    row = Counter(not_seen.by_type) if not_seen else Counter()
    result = Judgement(
        verdicts, list(spare.values()), reading, row, sum(map(truth.is_own, things)), truth.errors
    )
    for verdict in verdicts:
        if verdict.fit is not None:
            result.user_lines[_user_line(verdict)] += 1
    return result


def _place(opened: Opened) -> tuple[object, ...]:
    return (opened.pid, "fd", opened.fd) if opened.fd is not None else (opened.pid, "mapped", *opened.key)


def _where(thing: Thing) -> tuple[object, ...]:
    if thing.fd is not None:
        return thing.pid, "fd", thing.fd
    return thing.pid, "mapped", *thing.key, *([thing.address] if thing.kind == "semaphore" else [])


def _verdict(thing: Thing, opened: Opened | None, truth: Truth) -> Verdict:
    came = truth.of(thing.pid, thing)
    by_python = any(one.by_python_code for one in came)
    if opened is None:
        return Verdict(thing, "vanished", by_python, came)
    if any(one.skimmed for one in came):
        return Verdict(thing, "not judged", False, came, opened)
    if opened.made is None:
        return Verdict(thing, "not seen" if by_python else "not Python", by_python, came, opened)
    fits = sorted((fit for one in came if (fit := _fit(opened, one))), key=lambda fit: fit.word != "right")
    if fits:
        # What C code has made for itself is right too, if it is by the line that had it made.
        return Verdict(thing, fits[0].word, by_python, came, opened, fits[0])
    return Verdict(thing, "wrong" if by_python else "not Python, attributed", by_python, came, opened)


def _fit(opened: Opened, came: Came) -> Fit | None:
    """The best place where the tracer's stack stands in the truth; None if it stands nowhere."""
    assert opened.made is not None
    said = [(frame.file, frame.line, frame.function) for frame in opened.made.stack]
    for word, first_line_counts in (("right", True), ("right", False), ("other line of the library", False)):
        for number, stack in enumerate(came.stacks):
            for skipped in range(_MOST_SKIPPED + 1):
                rest = stack[skipped:]
                if not all(map(_of_library, stack[:skipped])) or not _same(said, rest, first_line_counts):
                    continue
                # Of the thread that noticed it, what a C function has not just made may be of a line before.
                inexact = number == 0 and not skipped and not came.exact
                if first_line_counts or (_of_library(rest[0]) if word != "right" else inexact):
                    return Fit(word, stack, skipped, number > 0, came.pid)
    return None


def _same(said: Sequence[Place], true: Sequence[Place], first_line_counts: bool) -> bool:
    # All 16 frames that the tracer keeps; fewer only where there are no more, or some were its own.
    if not said or len(said) > len(true) or len(said) < min(_FEWEST, len(true)):
        return False
    inner = said[0] == true[0] or (not first_line_counts and said[0][::2] == true[0][::2])
    return inner and list(said[1:]) == list(true[1 : len(said)])


def _of_library(place: Place) -> bool:
    return any(word in place[0] for word in _LIBRARY)


def _user_line(verdict: Verdict) -> str:
    """Whether the program's own line is named as the truth has it."""
    assert verdict.opened and verdict.opened.made and verdict.fit
    stack = verdict.opened.made.stack
    said = own_frame(stack)
    own = next(_of_the_program(verdict.fit.stack), None)
    if own is None:
        return "no line of the program"
    if (said.file, said.line, said.function) == own:
        return "right"
    kept = verdict.fit.stack[: verdict.fit.skipped + len(stack)]
    return "wrong" if own in kept else "beyond the frames kept"


def _of_the_program(stack: Sequence[Place]) -> Iterator[Place]:
    """Its frames, and those of strings that are executed, but for that by which multiprocessing begins."""
    for inner, place in zip(("", *(file for file, _, _ in stack)), stack, strict=False):
        if place[0].startswith(PROGRAMS) or (place[0] == "<string>" and "/multiprocessing/" not in inner):
            yield place
