"""`amidiag shm` as a user runs it. What is removed is always in a /dev/shm of the test's own."""

import json
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from amidiag.report.json_schema import schema

AMIDIAG = str(Path(sys.executable).parent / "amidiag")
HOLDER = """
import mmap, os, sys
fd = os.memfd_create("arena"); os.posix_fallocate(fd, 0, 1 << 20)
name = f"/dev/shm/torch_{os.getpid()}_1_0"
torch = os.open(name, os.O_CREAT | os.O_RDWR); os.posix_fallocate(torch, 0, 3 << 20); os.unlink(name)
m = mmap.mmap(fd, 1 << 20); print("ready", flush=True); sys.stdin.read()
"""


def amidiag(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [AMIDIAG, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.kill()
    process.communicate()


class Place:
    """A /dev/shm and an IPC namespace with one removable orphan, one file of unknown make, one of a living maker."""

    def __init__(self) -> None:
        gone = subprocess.Popen(["true"])
        gone.wait()
        self.dead, self.unknown = f"torch_{gone.pid}_1_0", "data.bin"
        names = f"{self.dead} {self.unknown} torch_$$_1_0"
        script = (
            "mount -t tmpfs none /dev/shm && cd /dev/shm && "
            f"for name in {names}; do head -c 8192 /dev/zero > $name; done; echo ready; exec cat"
        )
        self.keeper = subprocess.Popen(
            ["unshare", "--mount", "--ipc", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.keeper.stdout is not None
        assert self.keeper.stdout.readline() == b"ready\n"
        self.pid = str(self.keeper.pid)
        self.living = f"torch_{self.pid}_1_0"

    def inside(self, *words: str) -> list[str]:
        return ["nsenter", "--target", self.pid, "--mount", "--ipc", AMIDIAG, *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = self.inside(*words)
        return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)

    def left(self) -> set[str]:
        return set(os.listdir(f"/proc/{self.pid}/root/dev/shm"))


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.keeper.communicate()


def test_a_process_segment_by_segment(holder) -> None:
    done = amidiag("shm", str(holder.pid), "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    Draft202012Validator(schema()).validate(report)
    assert report["processes"][0]["shm"]["by_kind"]["torch"] == 3 << 20
    assert report["tree"]["shm_unique"] == 4 << 20
    torch, memfd = report["data"]["segments"]
    assert (torch["kind"], torch["in_flight"], torch["creator"]) == ("torch", True, holder.pid)
    assert (memfd["name"], memfd["mapped_by"]) == ("/memfd:arena", [holder.pid])
    assert report["data"]["in_flight"] == 3 << 20
    assert report["tree"]["dev_shm"]["orphans"] is not None
    shown = amidiag("shm", str(holder.pid), "--tree")
    assert f"PID {holder.pid}  " in shown.stdout
    assert f"torch_{holder.pid}_1_0 (deleted)" in shown.stdout
    assert "nobody: in flight" in shown.stdout


def test_no_such_process(holder) -> None:
    holder.kill()
    holder.wait()
    done = amidiag("shm", str(holder.pid), "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["exit_code"] == 3


@pytest.mark.parametrize(
    "words",
    [
        ["shm", "--tree"],
        ["shm", "--yes"],
        ["shm", "--any-name"],
        ["shm", "--older-than", "soon"],
        ["shm", "0"],
        ["shm", "--reap"],
    ],
)
def test_usage(words) -> None:
    done = amidiag(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_without_a_terminal_reap_says_what_to_add() -> None:
    assert "--yes" in amidiag("shm", "--reap").stderr


@pytest.mark.root
def test_listing_removes_nothing(place) -> None:
    before = place.left()
    done = place.run("shm", "--older-than", "0s")
    assert done.returncode == 0
    assert "3 orphans that nobody maps or holds, 24.0 KiB" in done.stdout
    assert place.left() == before
    young = json.loads(place.run("shm", "--json").stdout)
    assert young["data"]["orphans"] == []
    assert any("not listed: 3" in note for note in young["notes"])


@pytest.mark.root
def test_reap_removes_what_nobody_can_want_and_says_why_it_keeps_the_rest(place) -> None:
    done = place.run("shm", "--reap", "--yes", "--older-than", "0s", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    Draft202012Validator(schema()).validate(report)
    assert report["data"]["removed"] == [f"/dev/shm/{place.dead}"]
    kept = report["data"]["kept"]
    assert set(kept) == {f"/dev/shm/{place.unknown}", f"/dev/shm/{place.living}"}
    assert place.left() == {place.unknown, place.living}
    shown = place.run("shm", "--reap", "--yes", "--any-name", "--older-than", "0s").stdout
    assert "removed 1 orphan," in shown
    assert f"kept /dev/shm/{place.living}: its maker, PID {place.pid}, runs" in shown
    assert place.left() == {place.living}


@pytest.mark.root
def test_a_young_orphan_is_kept(place) -> None:
    before = place.left()
    assert place.run("shm", "--reap", "--yes").returncode == 0
    assert place.left() == before


@pytest.mark.root
def test_the_dev_shm_of_a_process_elsewhere_is_reaped_only_when_it_is_named(place) -> None:
    # GIVEN amidiag outside of that mount namespace
    here = json.loads(amidiag("shm", "--older-than", "0s", "--json").stdout)
    assert f"/dev/shm/{place.dead}" not in {orphan["name"] for orphan in here["data"]["orphans"]}
    # WHEN the process is named
    done = amidiag("shm", place.pid, "--reap", "--yes", "--older-than", "0s", "--json")
    report = json.loads(done.stdout)
    # THEN it is its /dev/shm that is cleaned
    assert report["data"]["removed"] == [f"/dev/shm/{place.dead}"]
    assert any("IPC namespace" in note for note in report["notes"])


@pytest.mark.root
@pytest.mark.parametrize(
    ("answer", "removes"), [("y\n", True), ("n\n", False), ("\n", False), ("\x04", False)]
)
def test_it_asks_on_a_terminal(place, answer, removes) -> None:
    command = shlex.join(place.inside("shm", "--reap", "--older-than", "0s"))
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("sh", ["sh", "-c", command])
    said = b""
    while b"[y/N]" not in said:
        said += os.read(terminal, 4096)
    assert b"Remove 1 orphan, 8.0 KiB?" in said
    os.write(terminal, answer.encode())
    while True:
        try:
            said += os.read(terminal, 4096)
        except OSError:  # EIO: the other side has closed the terminal.
            break
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert f"removable: /dev/shm/{place.dead} (8.0 KiB)".encode() in said
    assert (b"removed 1 orphan," in said) is removes
    assert (place.dead in place.left()) is not removes


def test_nothing_heavy_is_imported(holder) -> None:
    code = (
        "import sys; from amidiag.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'requests', 'memray', 'psutil'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "assert '--json' not in sys.argv or 'rich' not in sys.modules\n"
        "sys.exit(code)"
    )
    for words in (["shm", str(holder.pid), "--json"], ["shm", str(holder.pid)], ["shm", "--json"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.root
def test_what_may_not_be_read_is_said(holder) -> None:
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    words = [*user, sys.executable, "-m", "amidiag", "shm", str(holder.pid)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/")
    if done.returncode == 126 or "Permission denied" in done.stderr:
        pytest.skip("this Python cannot be started by another user")
    assert done.returncode == 0, done.stderr
    assert "segments: not known" in done.stdout
    assert "orphans in /dev/shm: not looked for" in done.stdout
    assert "Run as root" in done.stdout
