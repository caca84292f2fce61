"""`amidiag fds` on real processes: the table, several processes, names, no PID, marks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from amidiag.report.json_schema import schema

AMIDIAG = str(Path(sys.executable).parent / "amidiag")
# Opens two orphaned pipe ends more for each line that it is told.
ORPHANS = """
import os, sys
def orphans(number):
    for _ in range(number // 2):
        for drop in (0, 1): os.close(os.pipe()[drop])
orphans(int(sys.argv[1]))
print("ready", flush=True)
for _ in sys.stdin:
    orphans(2)
    print("done", flush=True)
"""
READY = "print('ready', flush=True); import time; time.sleep(1000)"

Run = Callable[..., subprocess.Popen[str]]


def amidiag(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([AMIDIAG, "fds", *map(str, words)], capture_output=True, text=True, check=False)


def data_of(done: subprocess.CompletedProcess[str]) -> Any:
    data = json.loads(done.stdout)
    Draft202012Validator(schema()).validate(data)
    return data


def nobodys(done: subprocess.CompletedProcess[str]) -> int:
    """Orphaned pipe ends among the groups of the first process."""
    groups = data_of(done)["data"]["processes"][0]["groups"]
    return sum(g["count"] for g in groups if (g["type"], g["peer"]) == ("pipe", "nobody"))


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts a program that says "ready"; it is killed when the test ends."""
    running: list[subprocess.Popen[str]] = []

    def start(*words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin and process.stdout
    process.stdin.write("more\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def test_orphans_are_one_line_among_the_limits(run: Run) -> None:
    target = run(sys.executable, "-c", ORPHANS, 3000)
    done = amidiag(target.pid)
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"PID {target.pid} ")
    assert re.match(r"3,00\d FDs of ", lines[1])
    assert re.fullmatch(r"  FDs  type +what +mode +other end held by", lines[2])
    assert re.fullmatch(r"3,000  pipe +pipe +r,w +nobody", lines[3])
    assert any(line.startswith("host: ") and "fs.nr_open" in line for line in lines)
    assert any("/dev/shm: " in line for line in lines)
    assert lines[-1].startswith("threads 1: python")


def test_the_json_has_groups_threads_and_surroundings(run: Run) -> None:
    target = run(sys.executable, "-c", ORPHANS, 30)
    data = data_of(amidiag(target.pid, "--json"))
    (detail,) = data["data"]["processes"]
    assert (detail["pid"], detail["state"]) == (target.pid, "S")
    assert sum(group["count"] for group in detail["groups"]) == data["processes"][0]["fds"]["open"]
    assert sum(group["count"] for group in detail["threads"]) == 1
    assert detail["surroundings"]["files_open"] > 30
    peers = data["processes"][0]["fds"]["peers"]
    assert peers.keys() == {"pipe", "fifo", "socket"}
    assert peers["pipe"]["nobody"] == 30


def test_no_peers_counts_by_type_only(run: Run) -> None:
    target = run(sys.executable, "-c", ORPHANS, 30)
    data = data_of(amidiag(target.pid, "--no-peers", "--json"))
    fds, detail = data["processes"][0]["fds"], data["data"]["processes"][0]
    assert fds["by_type"]["pipe"] == 32
    assert (fds["peers"], detail["groups"], detail["threads"]) == (None, None, None)
    assert re.search(r"^ *32  pipe$", amidiag(target.pid, "--no-peers").stdout, re.MULTILINE)


def test_a_stopped_process_is_said_to_be(run: Run) -> None:
    target = run(sys.executable, "-c", READY)
    target.send_signal(19)
    os.waitid(os.P_PID, target.pid, os.WSTOPPED | os.WNOWAIT)
    data = data_of(amidiag(target.pid, "--json"))
    assert data["data"]["processes"][0]["state"] == "T"
    assert any("stopped" in note for note in data["notes"])


def test_several_processes_and_names(run: Run) -> None:
    word = f"target-{uuid.uuid4()}"
    one, two = (run(sys.executable, "-c", READY, word) for _ in range(2))
    other = run(sys.executable, "-c", READY)
    assert [p["pid"] for p in data_of(amidiag("--name", word, "--json"))["processes"]] == sorted(
        (one.pid, two.pid)
    )
    both = data_of(amidiag(other.pid, one.pid, "--json"))
    assert [p["pid"] for p in both["processes"]] == [other.pid, one.pid]
    assert both["tree"] is None
    # A name and a PID add up, and a process is shown once.
    all_three = data_of(amidiag(other.pid, one.pid, "--name", word, "--json"))
    assert sorted(p["pid"] for p in all_three["processes"]) == sorted((one.pid, two.pid, other.pid))
    nothing = amidiag("--name", f"no {uuid.uuid4()}")
    assert (nothing.returncode, nothing.stdout) == (3, "")
    assert nothing.stderr.startswith("amidiag: no process has 'no ")


def test_without_a_pid_every_ami_worker(run: Run, tmp_path: Path) -> None:
    program = tmp_path / "ami"
    program.write_text(f"#!{sys.executable}\n{READY}\n")
    program.chmod(0o755)
    workers = [run(program, "worker", "run").pid for _ in range(2)]
    shown = [process["pid"] for process in data_of(amidiag("--json"))["processes"]]
    assert set(workers) <= set(shown)


def test_only_what_is_new_since_a_mark(run: Run, tmp_path: Path) -> None:
    target = run(sys.executable, "-c", ORPHANS, 100)
    mark = tmp_path / "mark"
    saved = amidiag(target.pid, "--save", mark)
    assert (saved.returncode, saved.stderr) == (0, f"wrote {mark}\n")
    assert "nothing new since " in amidiag(target.pid, "--since", mark).stdout
    tell(target)
    tell(target)
    done = amidiag(target.pid, "--since", mark, "--json")
    assert nobodys(done) == 4
    data = data_of(done)
    assert data["data"]["since"] == json.loads(mark.read_text())["taken_at"]
    # The counts are of all.
    assert data["processes"][0]["fds"]["peers"]["pipe"]["nobody"] == 104
    text = amidiag(target.pid, "--since", mark).stdout
    assert re.search(r"^new since .*: 4 FDs$", text, re.MULTILINE)
    assert re.search(r"^  4  pipe +pipe +r,w +nobody$", text, re.MULTILINE)
    # One mark may be read and replaced at once.
    again = amidiag(target.pid, "--since", mark, "--save", mark, "--json")
    assert nobodys(again) == 4
    assert nobodys(amidiag(target.pid, "--since", mark, "--json")) == 0


def test_a_child_started_since_is_all_new(run: Run, tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; print('ready', flush=True); sys.stdin.readline()\n"
        "child = subprocess.Popen(['sleep', '1000'], stdin=subprocess.DEVNULL); print('done', flush=True)\n"
        "sys.stdin.read(); child.kill()"
    )
    target = run(sys.executable, "-c", code)
    mark = tmp_path / "mark"
    amidiag(target.pid, "--save", mark)
    tell(target)
    parent, child = data_of(amidiag(target.pid, "--tree", "--since", mark, "--json"))["data"]["processes"]
    target.communicate("")
    assert parent["groups"] == []
    assert sum(group["count"] for group in child["groups"]) == 3


def test_a_mark_that_does_not_fit_is_refused(run: Run, tmp_path: Path) -> None:
    target, other = run(sys.executable, "-c", ORPHANS, 2), run(sys.executable, "-c", ORPHANS, 2)
    mark, bad = tmp_path / "mark", tmp_path / "bad"
    amidiag(target.pid, "--save", mark)
    saved = json.loads(mark.read_text())

    def refused(text: str, pid: int = target.pid) -> str:
        bad.write_text(text)
        done = amidiag(pid, "--since", bad)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"amidiag: --since {bad} cannot be used: ")
        return line

    assert "before this one was restarted" in refused(json.dumps(saved | {"boot_id": "another"}))
    assert f"says nothing of process {other.pid}" in refused(mark.read_text(), other.pid)
    process = saved["processes"][0]
    earlier = json.dumps(saved | {"processes": [process | {"start_ticks": process["start_ticks"] - 1}]})
    assert f"another process with PID {target.pid}" in refused(earlier)
    assert "this version" in refused(json.dumps(saved | {"format": "amidiag-fds-mark/9"}))
    for damaged in ("", "[]", "{}", mark.read_text()[:-20], '{"format": []}'):
        assert "amidiag fds --save" in refused(damaged)
    missing = amidiag(target.pid, "--since", tmp_path / "none")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "cannot be read: No such file" in missing.stderr


def test_a_mark_is_written_whole_or_not_at_all(run: Run, tmp_path: Path) -> None:
    target = run(sys.executable, "-c", ORPHANS, 2)
    done = amidiag(target.pid, "--save", tmp_path / "none" / "mark")
    assert done.returncode == 2
    assert done.stderr == f"amidiag: cannot write {tmp_path / 'none' / 'mark'}: No such file or directory\n"
    mark = tmp_path / "mark"
    mark.write_text("old")
    amidiag(target.pid, "--save", mark)
    assert json.loads(mark.read_text())["processes"][0]["pid"] == target.pid
    assert [path.name for path in tmp_path.iterdir()] == ["mark"]


@pytest.mark.parametrize("option", ["--save", "--since"])
def test_marks_need_what_no_peers_leaves_out(option: str, tmp_path: Path) -> None:
    done = amidiag(os.getpid(), "--no-peers", option, tmp_path / "mark")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--no-peers" in done.stderr


def test_a_name_that_steers_a_terminal_stays_on_its_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "two\nlines\x1b[31m"
    path.write_text("")
    code = f"held = open({str(path)!r}); {READY}"
    target = run(sys.executable, "-c", code)
    text = amidiag(target.pid).stdout
    assert "two\\nlines\\x1b[31m" in text
    assert "\x1b" not in text
