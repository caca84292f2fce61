"""What `amidiag fds` and the sampler cost, beside lsof, lsfd, the shell and C: ratios of paired runs.

    python benchmarks/fds.py

CPU is user and system of the whole process with its children; each ratio is the median of those of 9
rounds, in each of which every program runs once. Compiles `fds_scan.c` with cc; wants lsof and lsfd
(util-linux), and `ulimit -n` of 20,000. Exit code 1 where a target is not met. Takes 5 minutes.

With peers every process of the machine is read. One of them may be hidden even from root, as in some virtual
machines, or be outside of this container; so that is measured twice, as this machine is and as one where
every process can be read. `lsof +E` costs the more the more else runs: `--alone --only peers` measures both
with nothing to see but the benchmark itself, in a PID namespace of its own (as root).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fds_targets import tree
from mmap_latency import mmap_rows
from paired import Row, against, alone, cpu_ms, in_turns, print_table, said_ms
from sampling import sampler_rows

from amidiag.procfs.holders import Holders
from amidiag.procfs.peers import search

AMIDIAG = str(Path(sys.executable).with_name("amidiag"))
ONE, EACH, MEMBERS = 19_000, 16_250, 4
# The CPU of the scan itself, in a process whose modules are there already.
SCAN = """
import resource, sys
from amidiag.procfs.fds import scan
before = resource.getrusage(resource.RUSAGE_SELF)
for pid in sys.argv[1:]:
    scan(int(pid), ends=False)
after = resource.getrusage(resource.RUSAGE_SELF)
print((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000)
"""

# `amidiag` as it is where every process of the machine can be read: then what nobody is seen to hold is nobody's.
ALL_SEEN = """
from amidiag.procfs.peers import Sight
Sight.all = True
from amidiag.cli.start import run
run()
"""


def shell_pipe(pids: list[int]) -> str:
    """What issue #145 was found with."""
    listed = " ".join(f"/proc/{pid}/fd" for pid in pids)
    return f"ls -l {listed} | awk '{{print $NF}}' | sed 's/:.*//' | sort | uniq -c"


def count_rows(rounds: int, name: str, pids: list[int], scanner: str) -> Iterator[Row]:
    """Counts by type, whole process, and the scan alone."""
    listed = ",".join(map(str, pids))
    ours = [AMIDIAG, "fds", str(pids[0]), "--no-peers", "--json", *(["--tree"] if len(pids) > 1 else [])]
    plain = [str(pid) for pid in pids]
    measured = in_turns(
        [
            lambda: cpu_ms(ours),
            lambda: cpu_ms(["lsof", "-nP", "-p", listed]),
            lambda: cpu_ms(["lsfd", "-p", listed]),
            lambda: cpu_ms(shell_pipe(pids)),
            lambda: said_ms([sys.executable, "-c", SCAN, *plain]),
            lambda: cpu_ms([scanner, *plain]),
        ],
        rounds,
    )
    fds, lsof, lsfd, pipe, scan, c = measured
    yield against(f"{name}: counts by type, `lsof -nP -p`", fds, lsof, 0.5)
    yield against(f"{name}: counts by type, `lsfd -p`", fds, lsfd, 0.5)
    yield against(f"{name}: counts by type, `ls \\| awk \\| sed \\| sort \\| uniq -c`", fds, pipe, 1)
    yield against(f"{name}: the scan alone, C getdents64 + readlinkat", scan, c, 1.4)


def peer_rows(rounds: int, name: str, pids: list[int]) -> Iterator[Row]:
    """With the peers, for which every process of the machine is looked at."""
    asked = ["fds", str(pids[0]), "--json", *(["--tree"] if len(pids) > 1 else [])]
    seen, hidden, lsof = in_turns(
        [
            lambda: cpu_ms([sys.executable, "-c", ALL_SEEN, *asked]),
            lambda: cpu_ms([AMIDIAG, *asked]),
            lambda: cpu_ms(["lsof", "+E"]),
        ],
        rounds,
    )
    yield against(f"{name}: with peers, every process readable, `lsof +E`", seen, lsof, 0.4)
    yield against(f"{name}: with peers, {_hidden()}, `lsof +E`", hidden, lsof, 0.4)


def _hidden() -> str:
    """What this machine hides from this user."""
    sight = search(Holders({}), {"pipe:[0]"}, (), ())
    hidden = f"{sight.unreadable} process{'' if sight.unreadable == 1 else 'es'} hidden"
    return "in a container" if sight.in_container else hidden if not sight.all else "as it is"


def start_rows(rounds: int) -> Iterator[Row]:
    """What it costs to ask at all."""
    with tree(20) as (pid,):
        bare, json, table, told = in_turns(
            [
                lambda: cpu_ms([sys.executable, "-c", "pass"]),
                lambda: cpu_ms([AMIDIAG, "fds", str(pid), "--json"]),
                lambda: cpu_ms([AMIDIAG, "fds", str(pid)]),
                lambda: cpu_ms([AMIDIAG, "--help"]),
            ],
            rounds,
        )
    yield alone("for comparison: `python -c pass`", bare, None)
    yield alone("a process with 20 FDs: `fds --json`", json, 75)
    yield alone("a process with 20 FDs: the table", table, 100)
    yield alone("`amidiag --help`", told, 100)


def all_rows(rounds: int, only: str | None) -> Iterator[Row]:
    """Every line of the table, or one part of it."""
    wanted = (only,) if only else ("start", "sampler", "one", "tree", "mmap")
    if "peers" in wanted:
        with tree(ONE) as pids:
            yield from peer_rows(rounds, f"{ONE:,} FDs", pids)
        return
    if "start" in wanted:
        yield from start_rows(rounds)
    if "sampler" in wanted:
        yield from sampler_rows(rounds)
    with tempfile.TemporaryDirectory() as build:
        scanner = str(Path(build, "fds_scan"))
        subprocess.run(["cc", "-O2", "-o", scanner, str(Path(__file__).with_name("fds_scan.c"))], check=True)
        for part, name, each, children in (
            ("one", f"{ONE:,} FDs", ONE, 0),
            ("tree", f"{EACH * MEMBERS:,} FDs over {MEMBERS} processes", EACH, MEMBERS - 1),
        ):
            if part in wanted:
                with tree(each, children) as pids:
                    yield from count_rows(rounds, name, pids, scanner)
                    yield from peer_rows(rounds, name, pids)
    if "mmap" in wanted:
        yield from mmap_rows()


def main() -> int:
    """Print the table; 1 where a target is not met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("start", "sampler", "one", "peers", "tree", "mmap"))
    parser.add_argument("--alone", action="store_true", help="in a PID namespace of its own")
    asked = parser.parse_args()
    if asked.alone:
        again = [sys.executable, *(word for word in sys.argv if word != "--alone")]
        return subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", *again], check=False).returncode
    missing = [name for name in ("cc", "lsof", "lsfd") if shutil.which(name) is None]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)}")
    rows = list(all_rows(asked.rounds, asked.only))
    print_table(rows)
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
