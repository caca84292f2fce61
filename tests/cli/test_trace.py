"""`amidiag trace` on real programs: running, stopped, holding the GIL, at EMFILE, killed, and not traced at all."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from amidiag.report.json_schema import schema

AMIDIAG = str(Path(sys.executable).parent / "amidiag")

# What it makes, and from which line, is known; then it does what it is told.
PROGRAM = """\
import os, socket, sys, threading, time
keep = []
def pipes(n):
    for _ in range(n):
        keep.append(os.pipe())
def sockets():
    keep.append(socket.socketpair())
pipes(7)
sockets()
keep.append(os.memfd_create("m"))
os.ftruncate(keep[-1], 1 << 20)
os.posix_fallocate(keep[-1], 0, 1 << 20)
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
def fill():
    try:
        pipes(10**6)
    except OSError as error:
        assert error.errno == 24
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""
PIPES = "program.py:5 pipes"


class Program:
    """A traced program that does what it is told."""

    def __init__(self, directory: Path, env: dict[str, str], *, traced: bool = True) -> None:
        path = directory / "program.py"
        path.write_text(PROGRAM)
        words = [sys.executable, str(path)]
        self.process = subprocess.Popen(
            [AMIDIAG, "run", *words] if traced else words,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = str(self.process.pid)
        self._wait("ready")

    def _wait(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def tell(self, line: str, *, answers: bool = True) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        if answers:
            self._wait("done")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "AMIDIAG_RUNTIME_DIR": str(tmp_path / "tables")}


@pytest.fixture
def program(tmp_path: Path, env: dict[str, str]) -> Iterator[Program]:
    program = Program(tmp_path, env)
    yield program
    program.kill()


def amidiag(env: dict[str, str], *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [AMIDIAG, "trace", *words], env=env, capture_output=True, text=True, check=False, **options
    )


def as_json(env: dict[str, str], *words: str) -> dict[str, Any]:
    done = amidiag(env, *words, "--json")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    envelope: dict[str, Any] = json.loads(done.stdout)
    Draft202012Validator(schema()).validate(envelope)
    return envelope


def counts(envelope: dict[str, Any]) -> dict[str, int]:
    """By the group's last words: the name of the file and the line."""
    return {row["group"].rpartition("/")[2]: row["count"] for row in envelope["data"]["rows"]}


MADE = {PIPES: 14, "program.py:7 sockets": 2, "program.py:10 <module>": 1, "program.py:13 <module>": 1}


def test_what_is_open_is_shown_by_the_line_that_made_it(env, program) -> None:
    envelope = as_json(env, program.pid)
    data = envelope["data"]
    assert (envelope["command"], data["alive"], data["since"]) == ("trace", True, None)
    assert counts(envelope) == MADE
    pipes = data["rows"][0]
    assert [frame.rpartition("/")[2] for frame in pipes["stack"]] == ["program.py:8 <module>", PIPES]
    assert (pipes["by_type"], pipes["by_process"]) == ({"pipe": 14}, {program.pid: 14})
    (memfd,) = [row for row in data["rows"] if row["by_type"] == {"memfd": 1}]
    assert memfd["bytes"] == 1 << 20
    # Standard streams came from outside.
    assert data["not_seen"]["by_type"]["pipe"] == 2


def test_the_table_says_the_same(env, program) -> None:
    done = amidiag(env, program.pid)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"PID {program.pid}  ")
    (place,) = [n for n, line in enumerate(lines) if line.strip().endswith(PIPES)]
    assert re.match(r" *14  pipe 14 ", lines[place - 1])
    assert any(line.strip().startswith("not seen being made") for line in lines)
    assert "1.0 MiB" in done.stdout and "\x1b" not in done.stdout
    full = amidiag(env, program.pid, "--full").stdout
    assert "program.py:8 <module>" in full and "program.py:8 <module>" not in done.stdout


def test_rows_by_type_thread_and_process(env, program) -> None:
    assert counts(as_json(env, program.pid, "--by", "type")) == {
        "pipe": 14,
        "socket": 2,
        "memfd": 1,
        "thread": 1,
    }
    (thread,) = as_json(env, program.pid, "--by", "thread")["data"]["rows"]
    assert (thread["group"], thread["count"]) == (f"thread {program.pid} of process {program.pid}", 18)
    assert counts(as_json(env, program.pid, "--by", "process")) == {f"process {program.pid}": 18}
    for by in ("type", "thread", "process"):
        assert "mostly at " in amidiag(env, program.pid, "--by", by).stdout


def test_types_are_chosen_and_one_that_nothing_has_is_an_answer(env, program) -> None:
    assert counts(as_json(env, program.pid, "--type", "pipe")) == {PIPES: 14}
    both = as_json(env, program.pid, "--type", "socket", "--type", "thread")
    assert set(counts(both)) == {"program.py:7 sockets", "program.py:13 <module>"}
    none = as_json(env, program.pid, "--type", "pype")
    assert (none["data"]["rows"], none["data"]["not_seen"]["count"]) == ([], 0)
    assert none["notes"][-1].startswith("nothing is of type pype: there is ")
    assert "pipe" in none["notes"][-1]
    shown = amidiag(env, program.pid, "--type", "pype")
    assert shown.returncode == 0 and "note: nothing is of type pype" in shown.stdout


def test_since_a_mark_only_what_came_after_it(env, program, tmp_path) -> None:
    mark = str(tmp_path / "mark")
    saved = amidiag(env, program.pid, "--save", mark)
    assert (saved.returncode, saved.stderr) == (0, f"wrote {mark}\n")
    nothing = as_json(env, program.pid, "--since", mark)
    assert (nothing["data"]["rows"], nothing["data"]["not_seen"]["count"]) == ([], 0)
    program.tell("pipes(3)")
    after = as_json(env, program.pid, "--since", mark)
    assert counts(after) == {PIPES: 6}
    assert after["data"]["since"] is not None
    assert "only what was made since" in amidiag(env, program.pid, "--since", mark).stdout


def test_a_mark_of_another_process_is_refused(env, program, tmp_path) -> None:
    mark = str(tmp_path / "mark")
    amidiag(env, program.pid, "--save", mark)
    program.kill()
    other = Program(tmp_path, env)
    try:
        done = amidiag(env, other.pid, "--since", mark)
    finally:
        other.kill()
    assert (done.returncode, done.stdout) == (2, "")
    assert f"the mark is of another process: PID {program.pid}" in done.stderr


def test_of_a_killed_child_its_own_part_is_shown_and_that_its_parent_runs(env, program, tmp_path) -> None:
    told = tmp_path / "pid"
    program.tell("pid = os.fork(); pid or (pipes(2), os.kill(os.getpid(), 9)); os.waitpid(pid, 0)")
    program.tell(f"open({str(told)!r}, 'w').write(str(pid))")
    pid = told.read_text()
    envelope = as_json(env, pid)
    assert (envelope["data"]["alive"], counts(envelope)) == (False, {PIPES: 2})
    assert f"it was forked by PID {program.pid} (program.py), which runs" in envelope["notes"][0]
    assert f"PID {pid}  child of program.py" in amidiag(env, pid).stdout


@pytest.mark.parametrize(
    "content", [None, "", "{}", "[1]", '{"format": "amidiag-trace-mark/1"}', b"\xff\xfe"]
)
def test_a_mark_that_is_none_is_refused(env, program, tmp_path, content) -> None:
    mark = tmp_path / "mark"
    if content is not None:
        mark.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = amidiag(env, program.pid, "--since", str(mark))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"amidiag: --since {mark} cannot be ")


def test_graphs_hold_all_that_is_open(env, program, tmp_path) -> None:
    flame, scope = tmp_path / "flame.txt", tmp_path / "scope.json"
    done = amidiag(env, program.pid, "--collapsed", str(flame), "--speedscope", str(scope))
    assert (done.returncode, done.stderr) == (0, f"wrote {flame}\nwrote {scope}\n")
    assert PIPES in done.stdout
    lines = flame.read_text().splitlines()
    everything = as_json(env, program.pid)["data"]
    total = sum(row["count"] for row in everything["rows"]) + everything["not_seen"]["count"]
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == total
    (pipes,) = [line for line in lines if ";[pipe] 14" in line]
    assert re.fullmatch(r"<module> \(\S+:8\);pipes \(\S+:5\);\[pipe\] 14", pipes)
    assert any(line.startswith("[not seen being made];") for line in lines)
    profile = json.loads(scope.read_text())["profiles"][0]
    assert profile["endValue"] == sum(profile["weights"]) == total


def test_a_graph_on_standard_output_is_alone_there(env, program) -> None:
    done = amidiag(env, program.pid, "--type", "pipe", "--type", "pype", "--collapsed", "-")
    assert all(re.search(r";\[pipe\] \d+$", line) for line in done.stdout.splitlines())
    assert done.stderr.startswith("note: nothing is of type pype")
    assert json.loads(amidiag(env, program.pid, "--speedscope", "-").stdout)["shared"]


@pytest.mark.parametrize("option", ["--save", "--collapsed", "--speedscope"])
def test_a_file_that_cannot_be_written_is_one_line(env, program, tmp_path, option) -> None:
    done = amidiag(env, program.pid, option, str(tmp_path))
    assert (done.returncode, done.stderr) == (2, f"amidiag: cannot write {tmp_path}: Is a directory\n")


def test_a_stopped_program_is_read(env, program) -> None:
    program.process.send_signal(signal.SIGSTOP)
    try:
        assert counts(as_json(env, program.pid)) == MADE
    finally:
        program.process.send_signal(signal.SIGCONT)


def test_a_program_that_holds_the_gil_in_c_is_read(env, program) -> None:
    program.tell("import ctypes; print('held', flush=True); ctypes.PyDLL(None).sleep(60)", answers=False)
    program._wait("held")
    found = counts(as_json(env, program.pid))
    assert found.items() >= MADE.items()


def test_at_emfile_the_line_that_took_the_fds_is_first_and_what_failed_is_said(env, program) -> None:
    program.tell("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))")
    program.tell("fill()")
    envelope = as_json(env, program.pid)
    assert envelope["data"]["rows"][0]["group"].endswith(PIPES)
    assert envelope["data"]["rows"][0]["count"] > 200
    assert envelope["data"]["processes"][0]["emfile"] >= 1
    assert (
        f"PID {program.pid}: 1 creation failed for want of FDs (EMFILE)" in amidiag(env, program.pid).stdout
    )


def test_what_was_dropped_is_said(tmp_path, env) -> None:
    program = Program(tmp_path, env | {"AMIDIAG_TRACE_SLOTS": "16"})
    try:
        program.tell("pipes(30)")
        envelope = as_json(env, program.pid)
        shown = amidiag(env, program.pid).stdout
    finally:
        program.kill()
    dropped = envelope["data"]["processes"][0]["no_slot"]
    assert dropped > 0
    assert f"PID {program.pid}: {dropped} were dropped: the table was full" in shown
    # What was dropped was not seen; nothing is lost.
    assert envelope["data"]["not_seen"]["by_type"]["pipe"] > 2


def test_a_tree(env, program) -> None:
    program.tell(
        "import multiprocessing as m; p = m.get_context('fork').Process(target=time.sleep, args=(600,))"
    )
    program.tell("p.start()")
    alone, tree = as_json(env, program.pid), as_json(env, program.pid, "--tree")
    assert {p["pid"] for p in alone["data"]["processes"]} == {int(program.pid)}
    (child,) = {p["pid"] for p in tree["data"]["processes"]} - {int(program.pid)}
    (pipes,) = [row for row in tree["data"]["rows"] if row["group"].endswith(PIPES)]
    assert pipes["by_process"] == {program.pid: 14, str(child): 14}
    assert f"PID {child} (14)" in amidiag(env, program.pid, "--tree").stdout
    os.kill(child, signal.SIGKILL)


def test_what_a_killed_program_left_is_shown_by_its_pid_and_by_the_file(env, program, tmp_path) -> None:
    program.kill()
    envelope = as_json(env, program.pid)
    assert envelope["data"]["alive"] is False
    assert envelope["data"]["not_seen"] is None
    assert counts(envelope)[PIPES] == 7
    (path,) = (tmp_path / "tables").iterdir()
    assert re.match(
        rf"PID {program.pid} \(program\.py\) has ended and left {path}, last written \S+ \w+ ago \(20",
        envelope["notes"][0],
    )
    shown = amidiag(env, program.pid)
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[0] == f"PID {program.pid}  program.py  ended"
    assert "an upper bound" in shown.stdout
    assert as_json(env, str(path))["data"] == envelope["data"]
    # A copy elsewhere, in a directory of our own, is as good.
    copy = tmp_path / "copy.trace"
    copy.write_bytes(path.read_bytes())
    copy.chmod(0o600)
    assert counts(as_json(env, str(copy))) == counts(envelope)


def test_of_several_tables_the_newest_is_shown_and_the_others_are_named(env, program) -> None:
    # By exec one process becomes another program, with the same PID and a table of its own.
    program.tell(
        "os.execv(sys.executable, [sys.executable, '-c', "
        "'import os, time; keep = [os.pipe() for _ in range(3)]; print(\"again\", flush=True); time.sleep(600)'])",
        answers=False,
    )
    program._wait("again")
    program.kill()
    envelope = as_json(env, program.pid)
    (other,) = [note for note in envelope["notes"] if "left another table" in note]
    path = other.rpartition(" ")[2]
    assert Path(path).exists() and path != envelope["data"]["file"]
    assert {sum(counts(as_json(env, p)).values()) for p in (path, envelope["data"]["file"])} >= {3}


def test_the_file_of_a_running_program_is_read_as_running(env, program, tmp_path) -> None:
    (path,) = (tmp_path / "tables").iterdir()
    envelope = as_json(env, str(path))
    assert envelope["data"]["alive"] is True
    assert counts(envelope) == MADE


def _refused(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    return line


def test_a_program_that_is_not_traced_is_told_how(tmp_path, env) -> None:
    program = Program(tmp_path, env, traced=False)
    try:
        line = _refused(amidiag(env, program.pid), 3)
    finally:
        program.kill()
    assert f"process {program.pid}" in line and "is not traced" in line
    assert "amidiag run COMMAND" in line and "AMI_DIAG_TRACE=1" in line


def test_a_pid_that_is_nobodys_and_has_left_nothing(env) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    line = _refused(amidiag(env, str(process.pid)), 3)
    assert f"there is no process {process.pid}" in line and "left no call-site table" in line
    told = json.loads(amidiag(env, str(process.pid), "--json").stdout)
    Draft202012Validator(schema()).validate(told)
    assert (told["command"], told["exit_code"], told["data"]) == ("trace", 3, {})


def test_a_directory_that_is_open_to_others_is_not_believed(env, program, tmp_path) -> None:
    program.kill()
    (tmp_path / "tables").chmod(0o777)
    line = _refused(amidiag(env, program.pid), 3)
    assert f"there is no process {program.pid}" in line
    assert f"not believed: {tmp_path / 'tables'} is not a directory that belongs to this user alone" in line
    assert "belongs to this user alone" in _refused(amidiag(env), 3)


def test_files_that_are_no_tables(env, tmp_path) -> None:
    assert "is neither a PID nor the file" in _refused(amidiag(env, str(tmp_path / "nothing")), 2)
    other = tmp_path / "other"
    other.write_text("x" * 10_000)
    other.chmod(0o600)
    assert str(other) in _refused(amidiag(env, str(other)), 3)
    assert "is a directory" in _refused(amidiag(env, str(tmp_path)), 2)


@pytest.mark.parametrize(
    "words",
    [
        ["1", "--by", "colour"],
        ["--tree"],
        ["--type", "pipe"],
        ["--save", "x"],
        ["1", "--clean"],
        ["--clean", "--older-than", "soon"],
        ["1", "--json", "--collapsed", "-"],
        ["1", "--collapsed", "-", "--speedscope", "-"],
        ["1", "2"],
    ],
)
def test_usage(env, words) -> None:
    done = amidiag(env, *words)
    assert done.returncode == 2
    assert done.stdout == "" or json.loads(done.stdout)["exit_code"] == 2
    assert "Traceback" not in done.stderr


def test_the_list_and_its_cleaning(env, program, tmp_path) -> None:
    """The running one is first; only what the killed one left goes away."""
    killed = Program(tmp_path, env)
    killed.kill()
    envelope = as_json(env)
    assert envelope["command"] == "trace list"
    live, dead = envelope["data"]["files"]
    assert (live["pid"], live["alive"], live["program"]) == (int(program.pid), True, "program.py")
    assert (dead["pid"], dead["alive"]) == (int(killed.pid), False)
    shown = amidiag(env).stdout.splitlines()
    assert shown[1].endswith(f"  amidiag trace {program.pid}")
    assert shown[2].endswith(f"  amidiag trace {dead['path']}")
    assert "ended" in shown[2] and "program.py" in shown[2] and " ago)" in shown[2]

    kept = amidiag(env, "--clean", "--older-than", "1h")
    assert (kept.returncode, kept.stderr.startswith("kept of ended processes: 1, ")) == (0, True)
    assert dead["path"] in kept.stdout
    cleaned = amidiag(env, "--clean")
    assert cleaned.stdout.splitlines()[0] == f"removed {dead['path']}"
    assert [p.name for p in (tmp_path / "tables").iterdir()] == [Path(live["path"]).name]
    assert as_json(env, "--clean")["data"]["removed"] == []
    assert amidiag(env, "--clean").stderr == "nothing to remove\n"
    assert counts(as_json(env, program.pid)) == MADE


def test_no_table_at_all_is_an_answer(env) -> None:
    done = amidiag(env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no call-site tables")
    assert as_json(env)["data"] == {"files": [], "removed": []}


def test_help_has_examples_and_exit_codes(env) -> None:
    shown = amidiag(env, "--help").stdout
    assert "  amidiag trace 4711 " in shown and "Exit codes: 0 shown" in shown


def test_json_needs_no_rich(env, program) -> None:
    code = (
        "import sys; from amidiag.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "assert not {'rich', 'torch', 'numpy'} & sys.modules.keys()\n"
        "sys.exit(code)"
    )
    words = [sys.executable, "-c", code, "trace", program.pid, "--json"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_is_told_while_things_are_made_and_closed(env, program) -> None:
    """Reading beside a busy program: rows stay what they are, and nothing fails."""
    program.tell(
        "t = threading.Thread(target=lambda: [[os.close(e) for e in os.pipe()] for _ in range(10**9)])"
    )
    program.tell("t.daemon = True; t.start()")
    end = time.monotonic() + 2
    while time.monotonic() < end:
        found = counts(as_json(env, program.pid))
        assert found.items() >= MADE.items()
