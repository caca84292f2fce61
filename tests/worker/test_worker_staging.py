"""Staging: what is on the disk, for whom and for how long; against a real server, file system and death."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from worker.antenna.schemas import Task
from worker.ingest.download import DownloadError
from worker.ingest.limits import ImageLimits
from worker.ingest.staging import Stager, StagingError, read_staged, staged_path
from worker.ingest.staging_room import LOCK_NAME

pytestmark = pytest.mark.timeout(60)

LIMITS = ImageLimits(max_bytes=1 << 26, max_pixels=1 << 26, timeout_s=30.0)
KIB = 1024
JOB = 7
Make = Callable[..., Stager]


class Images(ThreadingHTTPServer):
    """`/SIZE/NAME` is a body of so many bytes; `/hung/NAME` begins one and says no more; all else is a 404."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: Counter[str] = Counter()
        self.ending = threading.Event()

    def task(self, path: str, image_id: str | None = None, query: str = "") -> Task:
        url = f"http://127.0.0.1:{self.server_port}/{path}{query}"
        return Task(id=f"t-{path}-{image_id}", image_id=image_id or path, image_url=url, reply_subject=None)

    def tasks(self, size: int, count: int, prefix: str = "i") -> list[Task]:
        return [self.task(f"{size}/{prefix}{n}") for n in range(count)]


class _Handler(BaseHTTPRequestHandler):
    server: Images

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        self.server.asked[path] += 1
        first = path.partition("/")[0]
        if first == "hung":
            self.send_response(200)
            self.send_header("Content-Length", "999999")
            self.end_headers()
            self.wfile.write(b"x" * 1000)
            self.server.ending.wait(30)
        elif first.isdecimal():
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body(path))
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def body(path: str) -> bytes:
    size = int(path.partition("/")[0])
    return (path.encode() + b".") * (size // (len(path) + 1)) + b"e" * (size % (len(path) + 1))


@pytest.fixture
def images() -> Iterator[Images]:
    server = Images()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.ending.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Stager] = []

    def stager(max_bytes: int = 1 << 30, threads: int = 4, **more: float) -> Stager:
        made.append(Stager(tmp_path / "staging", max_bytes=max_bytes, limits=LIMITS, threads=threads, **more))
        return made[-1]

    yield stager
    for one in made:
        one.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "staging"


def until(condition: Callable[[], object]) -> None:
    """Wait for what must come; the time limit of the test is what ends it otherwise."""
    while not condition():
        time.sleep(0.005)


def all_ready(stager: Stager, tasks: list[Task], job: int = JOB) -> None:
    while not all(stager.is_ready(job, task) for task in tasks):
        stager.wait_any(30.0)


def files(place: Path) -> list[Path]:
    return [Path(d, n) for d, _, names in os.walk(place) if Path(d) != place for n in names]


def used(place: Path) -> int:
    """Bytes on the disk, in whole blocks."""
    total = 0
    for path in files(place):
        try:
            total += -(-path.lstat().st_size // 4096) * 4096
        except FileNotFoundError:
            continue
    return total


def script(place: Path, tasks: list[Task], end: str, max_bytes: int = 1 << 30) -> list[str]:
    """A worker in a process of its own: stages `tasks` as those of job 7, then does `end`."""
    tasks_literal = repr([(t.id, t.image_id, t.image_url) for t in tasks])
    code = f"""
import logging, sys, time
from pathlib import Path
from worker.antenna.schemas import Task
from worker.ingest.limits import ImageLimits
from worker.ingest.staging import Stager, read_staged
logging.basicConfig(format="%(message)s")
place = Path({str(place)!r})
tasks = [Task(*one, None) for one in {tasks_literal}]
stager = Stager(place, max_bytes={max_bytes}, limits=ImageLimits(1 << 26, 1 << 26, 60.0), threads=4)
stager.stage({JOB}, tasks)
{end}
"""
    return [sys.executable, "-c", code]


def test_an_image_is_on_the_disk_until_its_task_is_answered(make: Make, images: Images, place: Path) -> None:
    stager, tasks = make(), images.tasks(100_000, 10)
    stager.stage(JOB, tasks)
    all_ready(stager, tasks)
    assert [read_staged(place, JOB, task) for task in tasks] == [body(t.image_id) for t in tasks]
    assert sorted(files(place)) == sorted(staged_path(place, JOB, task) for task in tasks)
    assert {p.stat().st_mode & 0o777 for p in (place, place / f"job-{JOB}")} == {0o700}
    stager.done(JOB, tasks[:9])
    until(lambda: len(files(place)) == 1)
    assert read_staged(place, JOB, tasks[0]) is None
    assert read_staged(place, JOB, tasks[9]) is not None
    stager.job_ended(JOB)
    until(lambda: not (place / f"job-{JOB}").exists())


def test_names_tell_images_apart_and_no_address(place: Path, images: Images) -> None:
    a = images.task("secret-path/a", query="?signature=1")
    b = images.task("secret-path/a", query="?signature=2#x")
    assert staged_path(place, 1, a) == staged_path(place, 1, b)
    others = [
        images.task("secret-path/a", image_id="b"),
        images.task("secret-path/b", image_id="secret-path/a"),
    ]
    assert len({staged_path(place, 1, t) for t in (a, *others)} | {staged_path(place, 2, a)}) == 4
    assert re.fullmatch(r"job-1/[0-9a-f]{40}\.image", str(staged_path(place, 1, a).relative_to(place)))


def test_two_tasks_with_one_image_download_it_once(make: Make, images: Images, place: Path) -> None:
    stager = make()
    a = images.task("5000/a", image_id="a", query="?s=1")
    b = Task("other", "a", a.image_url.replace("s=1", "s=2"), None)
    stager.stage(JOB, [a, b])
    all_ready(stager, [a, b])
    stager.done(JOB, [a])
    marker = images.task("5000/marker")
    stager.stage(JOB, [marker])
    all_ready(stager, [marker])
    stager.done(JOB, [marker])
    until(lambda: len(files(place)) == 1)  # Removals come in order.
    assert read_staged(place, JOB, b) == body("5000/a")
    assert images.asked["5000/a"] == 1


def test_a_failure_is_handed_to_the_reader_and_tried_again_when_the_task_comes_again(
    make: Make, images: Images, place: Path
) -> None:
    stager, task = make(), images.task("nowhere/a", query="?signature=hush")
    for asked in (1, 2):
        stager.stage(JOB, [task])
        all_ready(stager, [task])
        with pytest.raises(DownloadError, match="404 Not Found") as e:
            read_staged(place, JOB, task)
        assert "hush" not in str(e.value)
        assert images.asked["nowhere/a"] == asked
        stager.done(JOB, [task])
    until(lambda: not files(place))


def test_what_was_not_staged_is_ready_to_be_downloaded(make: Make, images: Images, place: Path) -> None:
    stager, task = make(), images.task("100/a")
    assert stager.is_ready(JOB, task)
    assert read_staged(place, JOB, task) is None
    assert not stager.wait_any(0.0)
    assert stager.room()


CONSUME = f"""
staged, left = 0, list(tasks)
while left:
    for task in [t for t in left if stager.is_ready({JOB}, t)]:
        data = read_staged(place, {JOB}, task)
        assert data is None or len(data) == int(task.image_id.split("/")[0])
        staged += data is not None
        stager.done({JOB}, [task])
        left.remove(task)
    stager.wait_any(1)
stager.close()
print(staged)
"""


def test_never_more_than_the_bound_is_on_the_disk(images: Images, place: Path) -> None:
    # GIVEN two workers on one directory, with room for 10 images, and 150 tasks of three sizes at once
    bound = 1 << 20
    workers = [
        subprocess.Popen(
            script(
                place,
                [t for size in (30_000, 100_000, 250_000) for t in images.tasks(size, 25, f"w{n}-")],
                CONSUME,
                max_bytes=bound,
            ),
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    # WHEN they are stopped again and again, and what is on the disk is counted
    peak = 0
    while all(w.poll() is None for w in workers):
        for w in workers:
            w.send_signal(signal.SIGSTOP)
        until(lambda: all(halted(w.pid) for w in workers))
        peak = max(peak, used(place))
        for w in workers:
            w.send_signal(signal.SIGCONT)
        time.sleep(0.001)
    # THEN the bound held, it was made use of, and most were staged
    staged = [int(w.communicate(timeout=30)[0]) for w in workers]
    assert bound / 2 < peak <= bound
    assert sum(staged) > 75
    assert files(place) == []


def halted(pid: int) -> bool:
    """Whether every thread of a process is stopped, or it has ended."""
    try:
        states = [(t / "stat").read_text().rpartition(")")[2][1] for t in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return all(state in "TZX" for state in states)


def test_room_is_what_the_next_image_would_find(make: Make, images: Images, place: Path) -> None:
    stager, tasks = make(1 << 20), images.tasks(200_000, 5)
    stager.stage(JOB, tasks)
    all_ready(stager, tasks)
    assert not stager.room()
    stager.done(JOB, tasks[:3])
    until(stager.room)


def test_an_image_larger_than_the_bound_is_left_to_the_loader(
    make: Make, images: Images, place: Path
) -> None:
    stager, task = make(256 * KIB), images.task("300000/a")
    stager.stage(JOB, [task])
    all_ready(stager, [task])
    assert read_staged(place, JOB, task) is None
    assert files(place) == []


def test_a_download_waits_for_room_and_is_then_staged(make: Make, images: Images, place: Path) -> None:
    stager = make(256 * KIB, patience_s=60.0)
    first, second = images.task("200000/a"), images.task("200000/b")
    stager.stage(JOB, [first])
    all_ready(stager, [first])
    stager.stage(JOB, [second])
    until(lambda: images.asked["200000/b"])
    assert not stager.is_ready(JOB, second)
    stager.done(JOB, [first])
    all_ready(stager, [second])
    assert read_staged(place, JOB, second) == body("200000/b")


def test_a_download_does_not_wait_for_room_for_ever(make: Make, images: Images, place: Path) -> None:
    stager = make(256 * KIB, patience_s=0.1)
    first, second = images.task("200000/a"), images.task("200000/b")
    for task in (first, second):
        stager.stage(JOB, [task])
        all_ready(stager, [task])
    assert read_staged(place, JOB, first) is not None
    assert read_staged(place, JOB, second) is None


def test_nobody_waits_for_room_that_only_another_worker_can_make(
    make: Make, images: Images, place: Path
) -> None:
    # GIVEN another worker's images on most of the directory, and one of ours that came and went
    other, theirs = make(256 * KIB), images.tasks(90_000, 2, "theirs")
    other.stage(JOB, theirs)
    all_ready(other, theirs)
    stager, small, large = make(256 * KIB, patience_s=3600.0), images.task("1000/a"), images.task("90000/b")
    stager.stage(JOB, [small])
    all_ready(stager, [small])
    stager.done(JOB, [small])
    # THEN one that finds no room is ready long before its patience ends
    stager.stage(JOB, [large])
    all_ready(stager, [large])
    assert read_staged(place, JOB, large) is None


def test_what_a_dead_worker_left_makes_room_for_what_is_needed(
    make: Make, images: Images, place: Path
) -> None:
    old, new = images.tasks(100_000, 2, "old"), images.tasks(100_000, 2, "new")
    stager = make(256 * KIB)
    stager.stage(JOB, old)
    all_ready(stager, old)
    stager.close()
    an_hour_ago = time.time() - 3600
    for task in old:
        os.utime(staged_path(place, JOB, task), (an_hour_ago, an_hour_ago))
    if read_staged(place, JOB, old[0]) and booted_within(3600):
        pytest.skip("this machine was started within the last hour: such files are not kept anyway")
    restarted = make(256 * KIB)
    assert len(files(place)) == 2
    restarted.stage(JOB, new)
    all_ready(restarted, new)
    assert [read_staged(place, JOB, t) is not None for t in new] == [True, True]
    assert used(place) <= 256 * KIB


def booted_within(seconds: float) -> bool:
    return time.clock_gettime(time.CLOCK_BOOTTIME) < seconds


def test_a_restart_after_a_kill_downloads_nothing_again(make: Make, images: Images, place: Path) -> None:
    # GIVEN a worker killed with three images complete and two in the middle, and one complete of last week
    tasks, hung = images.tasks(100_000, 3), [images.task("hung/a"), images.task("hung/b")]
    with subprocess.Popen(script(place, tasks + hung, "time.sleep(60)")) as process:
        until(lambda: [p.suffix for p in files(place)].count(".image") == 3)
        until(lambda: [p.suffix for p in files(place)].count(".partial") == 2)
        process.kill()
    old = staged_path(place, JOB, images.task("5/old"))
    old.write_bytes(b"12345")
    os.utime(old, (time.time() - 7 * 86400,) * 2)
    # WHEN another is started THEN the complete ones are there at once, and nothing else is
    stager = make()
    assert sorted(files(place)) == sorted(staged_path(place, JOB, t) for t in tasks)
    stager.stage(JOB, tasks)
    all_ready(stager, tasks)
    assert [read_staged(place, JOB, t) for t in tasks] == [body(t.image_id) for t in tasks]
    assert [images.asked[t.image_id] for t in tasks] == [1, 1, 1]
    stager.job_ended(JOB)
    until(lambda: not (place / f"job-{JOB}").exists())


def test_a_start_leaves_alone_what_another_worker_is_writing(make: Make, images: Images, place: Path) -> None:
    with subprocess.Popen(script(place, [images.task("hung/a")], "time.sleep(60)")) as process:
        until(lambda: [p for p in files(place) if p.stat().st_size])
        before = files(place)
        stager, mine = make(), images.task("1000/mine")
        assert files(place) == before
        stager.stage(JOB, [mine])
        all_ready(stager, [mine])
        stager.job_ended(JOB)
        until(lambda: not staged_path(place, JOB, mine).exists())
        assert files(place) == before
        process.kill()


def test_a_server_that_never_ends_a_body_holds_up_neither_close_nor_exit(images: Images, place: Path) -> None:
    end = """
while sum(p.stat().st_size > 0 for p in place.glob("*/*.partial")) < 4: time.sleep(0.01)
stager.close()
print("closed")
"""
    done = subprocess.run(
        script(place, [images.task(f"hung/{n}") for n in range(6)], end),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")
    assert files(place) == []


def test_after_close_every_task_is_ready(make: Make, images: Images) -> None:
    stager, tasks = make(threads=1), [images.task("hung/a"), *images.tasks(100, 3)]
    stager.stage(JOB, tasks)
    until(lambda: images.asked["hung/a"])
    assert not stager.is_ready(JOB, tasks[0])
    stager.close()
    assert stager.wait_any(30.0)
    assert all(stager.is_ready(JOB, t) for t in tasks)


def test_a_job_that_ends_gives_up_what_has_not_come(make: Make, images: Images, place: Path) -> None:
    stager, big = make(threads=1), images.task("30000000/a")
    stager.stage(JOB, [big, *images.tasks(100, 3)])
    until(lambda: files(place))
    stager.job_ended(JOB)
    until(lambda: not (place / f"job-{JOB}").exists())
    other = images.task("100/other")
    stager.stage(8, [other])
    all_ready(stager, [other], 8)
    assert [images.asked[f"100/i{n}"] for n in range(3)] == [0, 0, 0]


def test_a_forked_loader_keeps_no_file_of_the_staging(make: Make, images: Images, place: Path) -> None:
    stager = make()
    stager.stage(JOB, [images.task("hung/a")])
    until(lambda: [p for p in files(place) if p.stat().st_size])
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    child = multiprocessing.get_context("fork").Process(target=_open_below, args=(str(place), theirs))
    child.start()
    assert ours.recv() == []
    child.join()
    assert _links_below(str(place)) != []


def _open_below(place: str, answer: object) -> None:
    answer.send(_links_below(place))  # type: ignore[attr-defined]


def _links_below(place: str) -> list[str]:
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue
    # A fork in the moment of a look at the room inherits that file too, unlocked and without a byte of an image.
    return [link for link in links if link.startswith(place) and not link.endswith(LOCK_NAME)]


def mounted(place: Path, then: str, program: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program with a file system of 1 MiB at `place`, that nobody else sees."""
    command = f'mount -t tmpfs -o size=1m,mode=700 tmpfs "$0" && {then} && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, str(place), *program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mount may be made here")
    return done


@pytest.mark.root
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("true", "No space left on device"),
        ("mount -o remount,ro {place}", "Read-only file system"),
    ],
    ids=("full", "read_only"),
)
def test_a_disk_that_fails_costs_no_task(images: Images, place: Path, broken: str, said: str) -> None:
    # GIVEN a file system of 1 MiB, full after a few images or read-only from the start of the download
    place.mkdir(mode=0o700)
    end = f"""
while not all(stager.is_ready({JOB}, t) for t in tasks): stager.wait_any(5)
found = [read_staged(place, {JOB}, t) for t in tasks]
right = [f is None or len(f) == 300000 for f in found]
print(all(right), sum(f is None for f in found), stager.room())
"""
    program = script(place, images.tasks(300_000, 12), end)
    if broken != "true":
        program[2] = program[2].replace(
            "stager.stage(", f"import os; os.system({broken.format(place=place)!r}); stager.stage("
        )
    done = mounted(place, "true", program)
    # THEN every task is ready, those that did not fit to be downloaded by the loader, and it was said once
    assert done.returncode == 0, done.stderr
    right, missing, room = done.stdout.split()
    assert (right, room) == ("True", "True")
    assert 9 <= int(missing) <= 12
    assert done.stderr.count(said) == 1
    assert "Traceback" not in done.stderr


def test_a_directory_that_is_no_place_for_it_is_refused(tmp_path: Path, make: Make, place: Path) -> None:
    def refused(why: str) -> None:
        with pytest.raises(StagingError, match=why):
            make()

    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    refused("symbolic link: name the directory that it leads to")
    place.unlink()
    place.write_text("")
    refused("is no directory")
    place.unlink()
    place.symlink_to(place)
    refused("cannot be made|is no directory")
    place.unlink()
    place.mkdir()
    place.chmod(0o777)
    refused("changed by other users: chmod go-w")
    assert list(place.iterdir()) == []


@pytest.mark.root
def test_a_read_only_file_system_is_refused_at_the_start(images: Images, place: Path) -> None:
    place.mkdir(mode=0o700)
    program = script(place, [], "")
    program[2] = (
        program[2]
        .replace("stager = ", "\ntry: stager = ")
        .replace(f"stager.stage({JOB}, tasks)", "except Exception as e: print(type(e).__name__, e)")
    )
    done = mounted(place, "mount -o remount,ro $0", program)
    assert done.stdout == (
        f"StagingError {place} cannot be written to: Read-only file system; change that, or name another directory\n"
    )


@pytest.mark.root
def test_a_directory_of_another_user_is_refused(make: Make, place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give a directory away")
    place.mkdir(mode=0o700)
    os.chown(place, 65534, 65534)
    with pytest.raises(StagingError, match=r"belongs to \w+, and this worker runs as root: name another"):
        make()


def test_links_in_the_directory_are_not_followed(
    make: Make, images: Images, place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # GIVEN the directory of a job, and an image in another, that are links to what is not ours to touch
    caplog.set_level(logging.WARNING)
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    stager, task = make(), images.task("1000/a")
    (place / f"job-{JOB}").symlink_to(treasure)
    keep = treasure / staged_path(place, JOB, task).name
    keep.write_bytes(b"keep")
    (place / "job-8").mkdir()
    staged_path(place, 8, task).symlink_to(keep)
    assert read_staged(place, JOB, task) is None
    assert read_staged(place, 8, task) is None
    stager.stage(JOB, [task])
    all_ready(stager, [task])
    stager.job_ended(JOB)
    stager.close()
    assert "symbolic link" in caplog.text
    assert keep.read_bytes() == b"keep"
    # WHEN another worker starts, cleans, and stages the image whose name is a link
    again = make()
    again.stage(8, [task])
    all_ready(again, [task], 8)
    assert read_staged(place, 8, task) == body("1000/a")
    assert keep.read_bytes() == b"keep"
    assert [p.name for p in treasure.iterdir()] == [keep.name]
