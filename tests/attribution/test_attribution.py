"""Every pipe, socket, eventfd and segment that Python code makes is attributed to the right line.

The truth is the witness's (witness/fd_witness.py), which knows nothing of the tracer's hooks: it looks what is
open at every call and return. The tracer's answer is read from outside at quiet points of the program.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from judging import PROGRAMS, Judgement, judge
from runs import started

from amidiag.attach.grouping import group

METHODS = ("fork", "forkserver", "spawn")
STRATEGIES = ("file_descriptor", "file_system")


def none_of(verdicts: Sequence[object]) -> None:
    """Fail with the first few."""
    if verdicts:
        pytest.fail(
            f"{len(verdicts)}:\n" + "\n".join(str(verdict) for verdict in verdicts[:5]), pytrace=False
        )


def check(judgement: Judgement) -> None:
    """What must hold at every quiet point of every program."""
    assert judgement.witness_errors == []
    none_of(judgement.of("wrong", "not Python, attributed", "vanished"))
    none_of(judgement.invented)
    assert judgement.user_lines["wrong"] == 0
    # What is not attributed stands in the row for it, all of it, and nothing else.
    missing = [v for v in judgement.verdicts if v.opened and v.opened.made is None]
    row = judgement.not_seen_row
    threads_and_children = row["thread"] + row["process"]
    assert sum(row.values()) - threads_and_children - judgement.own_fds == len(missing)
    for books in judgement.reading.processes:
        assert (books.errors, books.no_slot, books.no_site, books.torn, books.untraced_forks) == (
            0,
            0,
            0,
            0,
            0,
        )


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("method", METHODS)
def test_what_loader_processes_open_is_attributed_to_the_right_line(
    tmp_path: Path, method: str, strategy: str
) -> None:
    # GIVEN a DataLoader with two loader processes
    with started(tmp_path, "loading", method, strategy, 2) as run:
        # With spawn and file_system torch needs 10 s to end its loader processes: benchmarks/attribution.py waits.
        points = (
            ("full", "received")
            if (method, strategy) == ("spawn", "file_system")
            else ("full", "received", "over")
        )
        for point in points:
            # WHEN the queue is full, when all batches are held, and when the loader is gone
            assert run.word() == point
            judgement = run.judge()
            # THEN all that Python code has opened is attributed, to the right line, and the rest is said
            check(judgement)
            none_of(judgement.of("other line of the library", "not judged"))
            if judgement.share < 0.99:
                none_of(judgement.of("not seen"))
            kinds = Counter(verdict.thing.kind for verdict in judgement.verdicts if verdict.by_python)
            assert point == "over" or (kinds["pipe"] and kinds["semaphore"]), kinds
            # Two tensors a batch, and six batches, which the loader processes hold, or the parent, or nobody.
            assert kinds["segment"] >= (2 if point == "full" else 12), kinds
            # What the parent has received came by its own line, not by that of the loader process that made it.
            received = [
                v.fit for v in judgement.verdicts if v.thing.kind == "segment" and v.thing.pid == run.pid
            ]
            assert {fit.pid for fit in received if fit} == {run.pid}
            run.go_on()


def test_every_way_to_open_something_is_attributed_to_the_right_line(tmp_path: Path) -> None:
    # GIVEN a program that opens things in every way that Python has, in threads and children too
    with started(tmp_path, "everything", "fork") as run:
        # WHEN all is held, and when other things have taken over the numbers of what was closed
        for point in ("made", "anew"):
            assert run.word() == point
            judgement = run.judge()
            # THEN all is attributed to the right line, but for what is known to be unseen
            check(judgement)
            none_of(judgement.of("other line of the library"))
            assert judgement.share >= 0.99
            unseen = Counter(v.thing.kind for v in judgement.of("not seen") if v.counted)
            # A duplicated eventfd and a nameless shared mapping. Semaphores that a child has by fork and its
            # parent has given up: their addresses in the parent have other semaphores by then.
            assert {kind: n for kind, n in unseen.items() if kind != "semaphore"} == {
                "eventfd": 1,
                "segment": 1,
            }
            assert unseen["semaphore"] <= 4
            run.go_on()


def test_what_is_opened_again_is_still_of_the_line_that_made_it(tmp_path: Path) -> None:
    # GIVEN segments and a pidfd that are opened a second time
    with started(tmp_path, "everything", "again") as run:
        assert run.word() == "made"
        # THEN the first is not taken for the second
        judgement = run.judge()
        check(judgement)
        assert judgement.share == 1


def test_the_pipes_that_loaders_leak_show_who_has_begun_the_loader_process(tmp_path: Path) -> None:
    # GIVEN loaders that leave two pipe ends each, as torch up to 2.12.1 does (FACTS 6)
    program = Path(PROGRAMS, "leaking_loaders.py")
    line = next(n for n, text in enumerate(program.read_text().splitlines(), 1) if "list(loader)" in text)
    with started(tmp_path, "leaking_loaders", 10) as run:
        assert run.word() == "leaked"
        # WHEN their call sites are read and grouped
        judgement = run.judge()
        check(judgement)
        rows, _ = group(judgement.reading, types=("pipe",))
        row = max(rows, key=lambda row: row.count)
        # THEN the largest row has them all, by the program's own line, and the way from there
        assert (row.count, row.by_type) == (20, {"pipe": 20})
        assert row.group == f"{program}:{line} build"
        chain = [frame.rpartition("/")[2] for frame in row.stack]
        inner = chain.index(next(frame for frame in chain if frame.endswith("BaseProcess.start")))
        assert chain[inner - 1].startswith("dataloader.py:")
        assert chain[inner - 1].endswith("_MultiProcessingDataLoaderIter.__init__")
        assert chain[-1].endswith("Popen._launch")


def test_an_answer_that_is_wrong_or_lacks_something_is_noticed(tmp_path: Path) -> None:
    # GIVEN an answer that is right
    with started(tmp_path, "everything", "again") as run:
        assert run.word() == "made"
        reading = run.judge().reading
        pipe = next(opened for opened in reading.opened if opened.type == "pipe" and opened.made)
        assert pipe.made
        inner, *outer = pipe.made.stack
        other_line = replace(pipe.made, stack=(replace(inner, line=inner.line + 1), *outer))
        # WHEN one line of it is another, one record or one row missing, or one row too many
        for made, word in ((other_line, "wrong"), (None, "not seen")):
            opened = tuple(replace(o, made=made) if o is pipe else o for o in reading.opened)
            # THEN that one is found
            tampered = judge(run.pid, tmp_path / "witness", replace(reading, opened=opened))
            assert [v for v in tampered.of(word) if v.opened and v.opened.key == pipe.key]
        rest = tuple(opened for opened in reading.opened if opened is not pipe)
        less = judge(run.pid, tmp_path / "witness", replace(reading, opened=rest))
        assert [v.thing.fd for v in less.of("vanished")] == [pipe.fd]
        more = replace(reading, opened=(*reading.opened, replace(pipe, fd=9999)))
        assert [opened.fd for opened in judge(run.pid, tmp_path / "witness", more).invented] == [9999]
