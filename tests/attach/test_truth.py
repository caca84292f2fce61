"""Under churn from many threads and forks, what a row says is held against the names of the things themselves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from amidiag.attach.call_sites import read_trace

READINGS = 40

CHURN = """
import os, random, sys, threading, time
from amidiag.target.tracer import install
tracer = install()
assert tracer.error is None, tracer.error
directory = sys.argv[1]
code = '''
def maker_N(rng):
    held = []
    for turn in range(10**9):
        held.append(os.memfd_create("maker_N"))
        held.append(os.open(directory + "/maker_N", os.O_CREAT | os.O_RDWR))
        held.append(os.open(directory + "/maker_N_%d" % (turn % 50), os.O_CREAT | os.O_RDWR))
        rng.shuffle(held)
        while len(held) > 40:
            os.close(held.pop())
'''
for number in range(8):
    names = dict(os=os, directory=directory)
    exec(code.replace("N", str(number)), names)
    threading.Thread(target=names[f"maker_{number}"], args=(random.Random(number),), daemon=True).start()
print("ready", flush=True)
while True:
    pid = os.fork()
    if pid == 0:
        time.sleep(0.05)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def named(pid: int, fd: int, key: tuple[int | None, ...]) -> str | None:
    """The maker that the thing itself names; None if it is not there any more."""
    way = f"/proc/{pid}/fd/{fd}"
    try:
        before, info, after = os.readlink(way), os.stat(way), os.readlink(way)
    except OSError:
        return None
    found = re.search(r"maker_\d", before)
    return found.group() if found and before == after and (info.st_dev, info.st_ino) == key else None


@pytest.mark.timeout(180)
def test_no_row_is_wrong_while_eight_threads_make_and_close(runtime: Path, tmp_path: Path) -> None:
    # GIVEN eight threads that make and close files and memory without pause, and forks meanwhile
    process = subprocess.Popen(
        [sys.executable, "-c", CHURN, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        right, unseen = 0, 0
        # WHEN it is read again and again
        for _ in range(READINGS):
            for opened in read_trace(process.pid, tree=True).opened:
                if opened.fd is None or opened.type not in ("memfd", "regular"):
                    continue
                name = named(opened.pid, opened.fd, opened.key)
                if name is None:
                    continue
                if opened.made is None:
                    # A child loses what it inherited where its parent has used the FD's number again.
                    unseen += opened.pid == process.pid
                    continue
                # THEN whatever is attributed is attributed to its maker
                assert opened.made.stack[0].function == name, (opened, name)
                right += 1
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    # AND left out is at most what each thread has just made, while it waits for the GIL to write it down
    assert right > 1000
    assert unseen <= 8 * READINGS
