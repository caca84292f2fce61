"""Results on disk: whole or not at all, within their room, and inherited by exactly one."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_rig import TOKEN

from worker.antenna.spool import Spool
from worker.antenna.spool_file import KeptAnswer, KeptPost
from worker.settings import SettingsError, read

pytestmark = pytest.mark.timeout(60)

SERVER = "http://antenna.example/api/v2"
MB = 1_000_000


def a_post(job_id: int = 7, tasks: int = 2, size: int = 10) -> KeptPost:
    answers = tuple(
        KeptAnswer(f"task-{n}", f"$ACK.{n}" if n else None, {"error": "x" * size, "image_id": str(n)})
        for n in range(tasks)
    )
    return KeptPost(job_id, 1_700_000_000.5, answers)


def kept(spool: Spool, post: KeptPost) -> Path:
    path = spool.keep(post)
    assert path is not None
    return path


def spool_in(directory: Path, max_bytes: int = 100 * MB) -> Spool:
    return Spool(directory, server=SERVER, max_bytes=max_bytes)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = spool_in(tmp_path / "spool")
    yield spool
    spool.close()


WORKER = """
import os, sys
from pathlib import Path
from worker.antenna.spool import Spool
from worker.antenna.spool_file import KeptAnswer, KeptPost

spool = Spool(Path(sys.argv[1]), server=sys.argv[2], max_bytes=10**8)
print(f"has {os.getpid()}", flush=True)
for line in sys.stdin:
    match line.split():
        case ["keep", job]:
            spool.keep(KeptPost(int(job), 0.0, (KeptAnswer("t", None, {"error": "x"}),)))
            print("kept", flush=True)
        case ["claim"]:
            jobs = [kept.job_id for path in spool.claim() if (kept := spool.read(path))]
            print("claimed", *jobs, flush=True)
        case ["fork"]:
            if os.fork() == 0:
                sys.stdout.close()
                import time
                time.sleep(600)
            print("forked", flush=True)
        case ["end"]:
            spool.close()
            break
"""


class Other:
    """A worker of its own process, as far as the spool knows one."""

    def __init__(self, directory: Path, server: str = SERVER) -> None:
        # Its own group, so that what it forks ends with the test.
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(directory), server],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        assert self.said().startswith("has")

    def tell(self, *lines: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines))
        self.process.stdin.flush()

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.said()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        with self.process:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return


@pytest.fixture
def others(tmp_path: Path) -> Iterator[list[Other]]:
    others: list[Other] = []
    yield others
    for other in others:
        other.end()


def test_a_post_is_read_as_it_was_kept(spool: Spool) -> None:
    path = kept(spool, a_post())
    assert spool.read(path) == a_post()
    spool.remove(path)
    assert not path.exists()


def test_a_number_that_is_not_finite_comes_back(spool: Spool) -> None:
    answer = KeptAnswer("t", None, {"total_time": float("inf")})
    path = kept(spool, KeptPost(1, 0.0, (answer,)))
    assert spool.read(path) == KeptPost(1, 0.0, (answer,))


def test_nobody_else_may_read_it_and_the_token_is_not_in_it(tmp_path: Path) -> None:
    settings = read(
        Path("/dev/null"),
        {"AMI_ANTENNA_API_AUTH_TOKEN": TOKEN, "AMI_WORKER_SPOOL_DIR": str(tmp_path / "spool")},
    ).settings
    spool = Spool.of(settings)
    kept(spool, a_post())
    found = list((tmp_path / "spool").rglob("*"))
    assert {p.stat().st_mode & 0o777 for p in found if p.is_dir()} == {0o700}
    assert {p.stat().st_mode & 0o777 for p in found if p.is_file()} == {0o600}
    assert all(TOKEN.encode() not in p.read_bytes() for p in found if p.is_file())
    assert str(tmp_path / "spool") in spool.why
    spool.close()


def test_a_spool_that_was_not_needed_leaves_nothing(tmp_path: Path) -> None:
    spool = spool_in(tmp_path / "spool")
    spool.remove(kept(spool, a_post()))
    spool.close()
    assert [
        p for p in (tmp_path / "spool").rglob("*") if p.is_file() or p.name.startswith(str(os.getpid()))
    ] == []


def test_what_a_living_worker_keeps_is_its_own(tmp_path: Path, others: list[Other]) -> None:
    others += [Other(tmp_path), Other(tmp_path)]
    first, second = others
    assert first.ask("keep 1") == "kept"
    assert second.ask("claim") == "claimed"
    assert first.ask("claim") == "claimed"
    os.kill(first.process.pid, signal.SIGSTOP)
    assert second.ask("claim") == "claimed"
    first.kill()
    assert second.ask("claim") == "claimed 1"


def test_a_process_that_a_dead_worker_forked_does_not_keep_its_results(
    tmp_path: Path, others: list[Other]
) -> None:
    others += [Other(tmp_path), Other(tmp_path)]
    first, second = others
    assert first.ask("keep 1") == "kept"
    assert first.ask("fork") == "forked"
    first.kill()
    assert second.ask("claim") == "claimed 1"


def test_of_many_that_start_at_once_one_inherits_each_post_in_its_order(
    tmp_path: Path, others: list[Other]
) -> None:
    dead = [Other(tmp_path) for _ in range(3)]
    others += dead
    for job in range(30):
        assert dead[job % 3].ask(f"keep {job}") == "kept"
    for other in dead:
        other.kill()
    heirs = [Other(tmp_path) for _ in range(4)]
    others += heirs
    for heir in heirs:
        heir.tell("claim")
    claimed = [[int(job) for job in heir.said().split()[1:]] for heir in heirs]
    assert sorted(job for jobs in claimed for job in jobs) == list(range(30))
    assert all(jobs == sorted(jobs) for jobs in claimed)
    # And what they have not posted goes on to the next.
    for heir in heirs:
        heir.tell("end")
        heir.process.wait()
    spool = spool_in(tmp_path)
    assert len(spool.claim()) == 30
    spool.close()


def test_the_results_for_another_server_stay(tmp_path: Path, others: list[Other]) -> None:
    others += [Other(tmp_path, "http://other.example/api/v2"), Other(tmp_path)]
    others[0].ask("keep 1")
    others[0].kill()
    assert others[1].ask("claim") == "claimed"


def test_what_a_killed_worker_was_writing_is_no_post(tmp_path: Path) -> None:
    first = spool_in(tmp_path)
    path = kept(first, a_post())
    torn = path.with_suffix(".partial")
    torn.write_bytes(b'{"version": 1, "job')
    first.close()
    second = spool_in(tmp_path)
    (claimed,) = second.claim()
    assert second.read(claimed) == a_post()
    second.remove(claimed)
    second.close()
    assert list(tmp_path.rglob("*.partial")) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"[" * 100_000,
        b"\xff",
        json.dumps({"version": 2, "job_id": 1, "reserved_at": 0, "answers": []}).encode(),
        json.dumps({"version": 1, "job_id": 1, "reserved_at": 0, "answers": [["t", None]]}).encode(),
        json.dumps({"version": 1, "job_id": 1, "reserved_at": 0, "answers": [[3, None, {}]]}).encode(),
        b'{"version": 1, "job_id": Infinity, "reserved_at": 0, "answers": []}',
        json.dumps({"version": 1, "job_id": None, "reserved_at": 0, "answers": []}).encode(),
    ],
)
def test_a_file_that_is_no_post_is_set_aside_and_said_once(
    tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    first = spool_in(tmp_path)
    kept(first, a_post()).write_bytes(data)
    first.close()
    second = spool_in(tmp_path)
    (claimed,) = second.claim()
    assert second.read(claimed) is None
    (aside,) = tmp_path.rglob("*.bad")
    assert aside.read_bytes() == data
    second.close()
    third = spool_in(tmp_path)
    assert third.claim() == []
    third.close()
    assert [r.levelno for r in caplog.records if aside.name in r.message] == [logging.ERROR]


def test_a_full_spool_takes_nothing_and_says_so_once_until_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = spool_in(tmp_path, max_bytes=3 * MB)
    files = [kept(spool, a_post(tasks=1, size=MB)) for _ in range(2)]
    assert [spool.keep(a_post(tasks=1, size=MB)) for _ in range(3)] == [None] * 3
    assert ["AMI_WORKER_SPOOL_MAX_BYTES" in r.message for r in caplog.records] == [True]
    spool.remove(files[0])
    files.append(kept(spool, a_post(tasks=1, size=MB)))
    assert spool.keep(a_post(tasks=1, size=MB)) is None
    assert len(caplog.records) == 2
    assert [spool.read(path) for path in files[1:]] == [a_post(tasks=1, size=MB)] * 2
    spool.close()


def test_all_that_share_it_have_one_room(tmp_path: Path, others: list[Other]) -> None:
    first = spool_in(tmp_path, max_bytes=3 * MB)
    kept(first, a_post(tasks=1, size=2 * MB))
    second = Spool(tmp_path, server="http://other.example", max_bytes=3 * MB)
    assert second.keep(a_post(tasks=1, size=2 * MB)) is None
    kept(second, a_post(tasks=1, size=1000))
    first.close()
    second.close()


def limited(tmp_path: Path, limit: str, script: str) -> list[str]:
    """What a process says that keeps posts in `tmp_path` under a limit of the kernel's."""
    code = f"""
import errno, logging, os, resource, sys
from pathlib import Path
from worker.antenna.spool import Spool
from worker.antenna.spool_file import KeptAnswer, KeptPost
logging.basicConfig(stream=sys.stdout, format="%(message)s")
spool = Spool(Path({str(tmp_path)!r}), server="s", max_bytes=10**9)
post = KeptPost(1, 0.0, (KeptAnswer("t", None, {{"error": "x" * 100_000}}),))
{limit}
{script}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_disk_that_takes_no_more_is_said_once_and_leaves_no_half_file(tmp_path: Path) -> None:
    said = limited(
        tmp_path,
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))",
        "print(spool.keep(post), spool.keep(post))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "print(spool.read(spool.keep(post)) == post)",
    )
    assert said == [
        f"{tmp_path}: results cannot be kept there, they wait in memory: File too large",
        "None None",
        "True",
    ]
    assert list(tmp_path.rglob("*.partial")) == []


def test_a_full_file_system(tmp_path: Path) -> None:
    """A real one, in a mount namespace of its own."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tmp_path)]
    script = f"""
import subprocess, sys
from pathlib import Path
subprocess.run({mount!r}, check=True)
import logging
logging.basicConfig(stream=sys.stdout, format="%(message)s")
from worker.antenna.spool import Spool
from worker.antenna.spool_file import KeptAnswer, KeptPost
spool = Spool(Path({str(tmp_path)!r}), server="s", max_bytes=10**9)
post = KeptPost(1, 0.0, (KeptAnswer("t", None, {{"error": "x" * 50_000}}),))
files = [spool.keep(post) for _ in range(6)]
print([f is not None for f in files].count(True), all(spool.read(f) == post for f in files if f))
spool.remove(files[0])
print(spool.keep(post) is not None)
"""
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{tmp_path}: results cannot be kept there, they wait in memory: No space left on device",
        "2 True",
        "True",
    ]


def test_without_a_free_descriptor_results_are_kept_and_read_all_the_same(tmp_path: Path) -> None:
    said = limited(
        tmp_path,
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
        """
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError as e:
    print(errno.errorcode[e.errno])
files = [spool.keep(post) for _ in range(3)]
print([spool.read(f) == post for f in files])
""",
    )
    assert said == ["EMFILE", "[True, True, True]"]


def test_a_directory_that_somebody_has_removed_is_made_anew(spool: Spool) -> None:
    path = kept(spool, a_post())
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    assert spool.read(path) is None
    assert spool.read(kept(spool, a_post())) == a_post()


def of(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, **variables: str) -> Spool:
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return Spool.of(read(Path("/dev/null"), variables).settings)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"STATE_DIRECTORY": "{}/a:{}/b", "XDG_STATE_HOME": "{}/x", "HOME": "{}"}, "a"),
        ({"XDG_STATE_HOME": "{}/x", "HOME": "{}"}, "x/ami-worker"),
        ({"XDG_STATE_HOME": "not/absolute", "HOME": "{}"}, ".local/state/ami-worker"),
        ({"HOME": "{}"}, ".local/state/ami-worker"),
    ],
)
def test_auto_is_the_state_directory_of_the_service_or_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], expected: str
) -> None:
    spool = of({k: v.replace("{}", str(tmp_path)) for k, v in environ.items()}, monkeypatch)
    assert spool.directory == tmp_path / expected
    spool.close()


def test_auto_that_cannot_be_had_is_memory_only_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    spool = of({"STATE_DIRECTORY": str(tmp_path / "file" / "x")}, monkeypatch)
    assert (spool.directory, spool.keep(a_post()), spool.claim()) == (None, None, [])
    assert "in memory only: " in spool.why
    assert "Not a directory" in spool.why


def test_a_named_directory_that_cannot_be_had_is_a_mistake_in_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"AMI_WORKER_SPOOL_DIR=.*Not a directory"):
        of({}, monkeypatch, AMI_WORKER_SPOOL_DIR=str(tmp_path / "file" / "x"))


def test_a_full_disk_at_the_start_is_no_mistake_in_the_settings(tmp_path: Path) -> None:
    """A worker that ends with 78 is not started again, and the disk may be free in a minute."""
    mount = ["mount", "-t", "tmpfs", "-o", "nr_inodes=2", "tmpfs", str(tmp_path)]
    script = f"""
import subprocess
from pathlib import Path
subprocess.run({mount!r}, check=True)
from worker.antenna.spool import Spool
from worker.settings import read
spool = Spool.of(read(Path("/dev/null"), {{"AMI_WORKER_SPOOL_DIR": {str(tmp_path / "spool")!r}}}).settings)
print(spool.why)
"""
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "in memory only: [Errno 28] No space left on device" in done.stdout


def test_results_for_a_server_that_nobody_works_for_any_more_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = Spool(tmp_path, server="http://before.example", max_bytes=MB)
    old, new = kept(before, a_post()), kept(before, a_post())
    os.utime(old, (0, 0))
    size = old.stat().st_size
    before.close()
    for spool in (spool_in(tmp_path), Spool(tmp_path, server="http://before.example", max_bytes=MB)):
        spool.claim()
        spool.close()
    assert [f"1 posts ({size} bytes) to another" in r.message for r in caplog.records] == [True]
    assert len(list(tmp_path.rglob(old.name))) == len(list(tmp_path.rglob(new.name))) == 1


def test_a_directory_that_others_can_read_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = spool_in(tmp_path)
    first.close()
    (of_server,) = tmp_path.iterdir()
    of_server.chmod(0o755)
    with pytest.raises(PermissionError, match="0700"):
        spool_in(tmp_path)


def test_no_directory_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    spool = of({}, monkeypatch, AMI_WORKER_SPOOL_DIR="")
    assert (spool.directory, spool.keep(a_post())) == (None, None)
