"""Two hundred thousand creations from eight threads, with forks meanwhile: no record has a line that is not its own."""

from __future__ import annotations

import json

import pytest
from trace_programs import Programs, lines, made_in, regions

# Each thread makes from a line of its own, thread N from line 1000 * (N + 1) on, and remembers what it has made.
STRESS = """
import json, os, random, sys, threading
threads, each, report = 8, int(sys.argv[1]), sys.argv[2]
sys.setswitchinterval(1e-5)
source = '''
def pipe(): return os.pipe()
def memfd(): return (os.memfd_create("x"),)
def file(): return (os.open(path, os.O_RDWR | os.O_CREAT, 0o600),)
def pair(): return socket.socketpair()
def opened(): return (open(path, "wb"),)
'''
import socket
known, held, files, children = {}, {}, {}, []
running = threading.Event()
def work(number):
    random_one = random.Random(number)
    mine = held[number] = []
    log = known[number] = []
    path = f"{report}.{number}"
    names = {"os": os, "socket": socket, "path": path}
    exec(compile("\\n" * (1000 * (number + 1)) + source, "/made.py", "exec"), names)
    # One of three mostly opens files: those take over each other's slots.
    sorts = ("pipe", "pipe", "memfd", "file", "pair", "opened") if number % 3 else ("file", "opened", "file")
    makers = [names[name] for name in sorts]
    running.wait()
    for turn in range(each):
        which = sorts[turn % len(sorts)]
        ends = makers[turn % len(sorts)]()
        if which not in ("file", "opened"):
            for end in ends[: 1 if which == "pipe" else 2]:
                log.append(os.fstat(end if isinstance(end, int) else end.fileno()).st_ino)
        mine.append((which, ends))
        while len(mine) > 60:
            for end in mine.pop(random_one.randrange(60))[1]:
                os.close(end) if isinstance(end, int) else end.close()
    files[number] = os.stat(path).st_ino
def fork():
    while any(thread.is_alive() for thread in workers):
        pid = os.fork()
        if pid == 0:
            ends = os.pipe()  # child
            os.write(results[1], b"%d %d\\n" % (os.getpid(), os.fstat(ends[0]).st_ino))
            os._exit(0)
        children.append(pid)
        os.waitpid(pid, 0)
results = os.pipe()
os.set_blocking(results[0], False)
workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
for thread in workers: thread.start()
running.set()
fork()
for thread in workers: thread.join()
alive, fds = {}, []
for number, mine in held.items():
    every = [end if isinstance(end, int) else end.fileno() for _, ends in mine for end in ends]
    alive[number] = [os.fstat(fd).st_ino for fd in every]
    fds += [(fd, os.fstat(fd).st_ino) for fd in every if os.fstat(fd).st_ino == files[number]]
with open(report, "w") as f:
    json.dump({"known": known, "alive": alive, "fds": fds, "files": files, "children": len(children)}, f)
print("0", flush=True)
input()
"""


def _line(made) -> int | None:
    found = lines([made], file="made.py")
    return found[0] if found else None


@pytest.mark.parametrize("slots", ["32768", "4096", "700"], ids=("usual", "sweeping", "too_small"))
def test_no_record_is_wrong(programs: Programs, slots: str) -> None:
    """GIVEN every creation's inode and line, as the program knows them WHEN its table is read THEN each record says
    the line of its own inode; and all that is open is there, unless it was counted as dropped."""
    each = 25_000 if slots == "32768" else 5_000
    report = programs.directory / "report"
    program = programs.start(STRESS, str(each), str(report), AMIDIAG_TRACE_SLOTS=slots)
    program.said()
    truth = json.loads(report.read_text())
    owner = {inode: int(number) for number, log in truth["known"].items() for inode in log}
    owner |= {inode: int(number) for number, inode in truth["files"].items()}
    assert sum(map(len, truth["known"].values())) >= 5 * each * 2 // 3
    region = program.region()
    assert region.errors == 0 and region.torn == 0 and truth["children"] > 10
    right = 0
    for made in made_in(region):
        if made.inode in owner and made.keyed in (1, 2) and made.kind != "thread":
            line = _line(made)
            assert line is not None and line // 1000 - 1 == owner[made.inode], made
            right += 1
    recorded = {(made.device, made.inode) for made in made_in(region)}
    open_now = {inode for log in truth["alive"].values() for inode in log}
    missing = open_now - {inode for _, inode in recorded}
    # Of files, which share an inode, each FD that is open.
    missing |= set(map(tuple, truth["fds"])) - {(made.fd, made.inode) for made in made_in(region)}
    if slots == "too_small" or region.no_slot:
        assert len(missing) <= region.no_slot
    else:
        assert not missing
    assert right >= len(open_now | set(map(tuple, truth["fds"]))) - len(missing) - 8
    _check_children(programs, program.process.pid, truth["children"])
    if slots == "32768":
        assert region.no_slot == 0


def _check_children(programs: Programs, parent: int, count: int) -> None:
    """What the last of them have made, in the regions that were given from one to the next."""
    table = [region for region in regions(programs.tables) if region.pid != parent]
    assert 0 < len(table) <= count
    child = next(i for i, text in enumerate(STRESS.splitlines(), start=1) if text.endswith("# child"))
    for region in table:
        made = made_in(region)
        assert lines([one for one in made if one.kind == "pipe"]) == [child]
        assert region.errors == 0
