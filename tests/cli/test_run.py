"""`amidiag run` is not to be noticed by the program, nor by who waits for it: each test compares with a bare run."""

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
AMIDIAG = str(BIN / "amidiag")
Done = subprocess.CompletedProcess[bytes]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An activated environment, and tables in a directory of this test's own."""
    return {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "AMIDIAG_RUNTIME_DIR": str(tmp_path / "tables"),
    }


def bare(env: dict[str, str], *words: str, **options: object) -> Done:
    return subprocess.run(words, env=env, capture_output=True, check=False, **options)  # type: ignore[call-overload]


def traced(env: dict[str, str], *words: str, **options: object) -> Done:
    return bare(env, AMIDIAG, "run", *words, **options)


def same(env: dict[str, str], *words: str, **options: object) -> Done:
    """Run it both ways, see to it that code and both outputs are the same bytes, and give them."""
    expected, done = bare(env, *words, **options), traced(env, *words, **options)
    assert (done.returncode, done.stdout, done.stderr) == (
        expected.returncode,
        expected.stdout,
        expected.stderr,
    )
    return done


@pytest.mark.parametrize("code", [0, 1, 3, 120, 255])
def test_the_exit_code_is_the_programs(env, code) -> None:
    assert same(env, "python", "-c", f"raise SystemExit({code})").returncode == code
    assert same(env, "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGPIPE])
def test_who_waits_sees_the_signal_that_ended_it(env, number) -> None:
    assert same(env, "sh", "-c", f"kill -{number.value} $$").returncode == -number
    code = (
        "import os, signal, sys; n = int(sys.argv[1])\n"
        "if n != signal.SIGKILL: signal.signal(n, signal.SIG_DFL)\n"
        "os.kill(os.getpid(), n)"
    )
    assert same(env, "python", "-c", code, str(number.value)).returncode == -number


def test_it_has_the_pid_that_was_started(env) -> None:
    words = [AMIDIAG, "run", "python", "-c", "import os; print(os.getpid(), os.getppid())"]
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE)
    assert process.communicate()[0].split() == [str(process.pid).encode(), str(os.getpid()).encode()]


def test_an_uncaught_error_prints_the_same_traceback(env, tmp_path) -> None:
    (tmp_path / "broken.py").write_text("import os\ndef f():\n    os.pipe()\n    open('/nowhere')\nf()\n")
    done = same(env, "python", str(tmp_path / "broken.py"))
    assert done.returncode == 1
    assert b"No such file or directory: '/nowhere'" in done.stderr
    same(env, "python", "-c", "import os, socket\nsocket.socket(99, 99, 99)")
    same(env, "python", "-c", "1 +")


@pytest.mark.parametrize(
    "extra", [{}, {"PYTHONPATH": "/some/where"}, {"PYTHONPATH": "a::b:"}, {"PYTHONPATH": ""}]
)
def test_python_sees_the_same_world_but_for_one_variable(env, extra) -> None:
    code = (
        "import os, sys; e = dict(os.environ); mine = e.pop('AMI_DIAG_TRACE', None)\n"
        "print(sorted(e.items()), sys.path, sys.argv, sys.orig_argv, sys.executable, sys.flags, os.getcwd())\n"
        "print(mine, file=sys.stderr)"
    )
    before = bare(env | extra, "python", "-c", code, "x", "--json")
    after = traced(env | extra, "python", "-c", code, "x", "--json")
    assert after.stdout == before.stdout
    assert (before.stderr, after.stderr) == (b"None\n", b"1\n")


def test_a_program_that_is_no_python_gets_two_variables_and_nothing_else() -> None:
    # In the C locale Python sets LC_CTYPE for itself when it starts.
    for given in (
        {"PATH": "/usr/bin:/bin"},
        {"PATH": "/usr/bin:/bin", "LC_CTYPE": "C", "CAF\udce9": "\udcff\n"},
    ):
        before, after = bare(given, "env", "-0"), traced(given, "env", "-0")
        added = set(after.stdout.split(b"\0")) - set(before.stdout.split(b"\0"))
        assert set(before.stdout.split(b"\0")) <= set(after.stdout.split(b"\0"))
        assert {entry.partition(b"=")[0] for entry in added} == {b"AMI_DIAG_TRACE", b"PYTHONPATH"}


def test_signals_are_as_a_shell_leaves_them(env) -> None:
    """Python ignores SIGPIPE and SIGXFSZ for itself; what the caller ignores stays ignored (nohup, `&`)."""
    words = ("grep", "^Sig[BIC]", "/proc/self/status")
    same(env, *words)
    ignored = same(env, "sh", "-c", f"trap '' HUP INT; exec {' '.join(words)}")
    by_caller = bare(env, "sh", "-c", f"trap '' HUP INT; exec {AMIDIAG} run {' '.join(words)}")
    assert by_caller.stdout == ignored.stdout
    # yes(1) ends at once, and silently, when its reader does.
    piped = bare(env, "bash", "-c", f"{AMIDIAG} run yes | head -1; echo ${{PIPESTATUS[0]}}")
    assert (piped.stdout, piped.stderr) == (f"y\n{128 + signal.SIGPIPE}\n".encode(), b"")


def test_no_descriptor_is_added_or_lost(env) -> None:
    read, write = os.pipe()
    try:
        same(env, "ls", "/proc/self/fd", pass_fds=(read, write))
    finally:
        os.close(read)
        os.close(write)
    closed = f"ls /proc/self/fd <&- 2>&-; {AMIDIAG} run ls /proc/self/fd <&- 2>&-"
    listed = bare(env, "sh", "-c", closed).stdout.split()
    assert listed[: len(listed) // 2] == listed[len(listed) // 2 :]


def test_standard_input_passes_through(env) -> None:
    data = bytes(range(256)) * 4096
    assert same(env, "cat", input=data).stdout == data
    code = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])"
    assert same(env, "python", "-c", code, input=data).stdout == data[::-1]


COUNTING = """
import sys, time
try:
    print("ready", sys.stdin.isatty(), sys.stdout.isatty(), flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise
"""


def _on_a_terminal(env: dict[str, str], *words: str) -> tuple[bytes, int]:
    """Start it in a terminal of its own, press Ctrl-C when it is ready; what was shown, and the wait status."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(words[0], words, env)
    shown = b""
    while not re.search(rb"ready .*\n", shown):
        shown += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # EIO: nobody has the other side open any more.
            break
        shown += data
    os.close(terminal)
    return shown, os.waitpid(pid, 0)[1]


def _steady(shown: bytes) -> bytes:
    return re.sub(rb"line \d", b"line", shown)


def test_ctrl_c_in_a_terminal_is_the_programs(env) -> None:
    expected = _on_a_terminal(env, "python", "-c", COUNTING)
    shown, status = _on_a_terminal(env, AMIDIAG, "run", "python", "-c", COUNTING)
    # Line 4 or 5: the keys may come before the program sleeps.
    assert (_steady(shown), status) == (_steady(expected[0]), expected[1])
    assert b"ready True True" in expected[0] and b"interrupted" in expected[0]
    assert os.WTERMSIG(expected[1]) == signal.SIGINT


SHOW = "import sys; print(sys.argv, sys.executable, __name__)"


def test_forms_of_a_command(env, tmp_path) -> None:
    """A script and a module go to the first python3 of PATH; a script that names its interpreter runs itself."""
    script = tmp_path / "show.py"
    script.write_text(SHOW)
    inside = {"cwd": str(tmp_path)}
    expected = bare(env, "python3", "show.py", "a", "--json", **inside).stdout
    assert expected
    for words in (("show.py",), ("--", "show.py"), ("python3", "show.py")):
        assert traced(env, *words, "a", "--json", **inside).stdout == expected
    expected = bare(env, "python3", "-m", "show", "--help", **inside).stdout
    assert traced(env, "-m", "show", "--help", **inside).stdout == expected
    # Executable, but its first line names no interpreter: a shell would take Python for shell.
    script.chmod(0o755)
    expected = bare(env, "python3", "./show.py", **inside).stdout
    assert traced(env, "./show.py", **inside).stdout == expected
    script.write_text(f"#!/usr/bin/env -S sh -c 'echo by itself' \n{SHOW}")
    assert traced(env, "./show.py", **inside).stdout == b"by itself\n"
    assert traced(env, "show.py", **inside).stdout == bare(env, "python3", "show.py", **inside).stdout


def test_a_script_without_a_first_line_is_a_shell_script(env, tmp_path) -> None:
    script = tmp_path / "start"
    script.write_text('echo "$0" "$@"\n')
    script.chmod(0o755)
    done = traced(env, str(script), "a b", "-c")
    assert (done.returncode, done.stdout) == (0, f"{script} a b -c\n".encode())


def test_python_where_path_has_none_is_amidiags_own(env, tmp_path) -> None:
    (tmp_path / "show.py").write_text(SHOW)
    done = traced(env | {"PATH": str(tmp_path)}, "show.py", cwd=str(tmp_path))
    assert sys.executable.encode() in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["no-such-program", "--json"], 127, "amidiag: there is no program 'no-such-program' on PATH\n"),
        (["./no-such-program"], 127, "amidiag: there is no program './no-such-program'\n"),
        (["nowhere.py"], 127, "amidiag: there is no program 'nowhere.py' on PATH\n"),
        (["/"], 126, "amidiag: / is a directory\n"),
        (["/etc/passwd"], 126, "amidiag: /etc/passwd is not executable\n"),
        (
            ["./text"],
            127,
            "amidiag: ./text cannot be executed: the interpreter that it names does not exist\n",
        ),
        (["./denied"], 126, "amidiag: ./denied cannot be executed: Permission denied\n"),
    ],
)
def test_a_program_that_cannot_be_run_has_the_shells_exit_code(env, tmp_path, words, code, said) -> None:
    (tmp_path / "text").write_text("#!/no/interpreter\n")
    (tmp_path / "denied").write_text("#!/etc/passwd\n")
    for name in ("text", "denied"):
        (tmp_path / name).chmod(0o755)
    assert bare(env, "env", *words, cwd=str(tmp_path)).returncode == code
    done = traced(env, *words, cwd=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.decode()) == (code, b"", said)


@pytest.mark.parametrize("words", [[], ["--"], ["--json"], ["--tree", "python"], ["-x", "python"]])
def test_usage(env, words) -> None:
    done = traced(env, *words)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"amidiag run --help" in done.stderr


def test_help_before_the_command_is_ours_and_after_it_the_programs(env) -> None:
    assert b"amidiag run python train.py" in traced(env, "--help").stdout
    assert same(env, "python", "--help").stdout.startswith(b"usage: ")
    assert same(env, "ls", "--json").stderr
    assert same(env, "echo", "--json", "--", "-x").stdout == b"--json -- -x\n"


def test_nothing_heavy_is_imported(env) -> None:
    done = bare(env, "python", "-X", "importtime", "-m", "amidiag", "run", "true")
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr.decode(), re.MULTILINE))
    assert "click" in imported
    heavy = {"typer", "rich", "torch", "numpy", "psutil", "amidiag.procfs.observe", "amidiag.attach"}
    assert not heavy & imported


# Says of itself whether it has a call-site table, while it has one: an orderly end takes it away.
PROBE = """
import os, sys
tables = os.listdir(os.environ["AMIDIAG_RUNTIME_DIR"]) if os.path.isdir(os.environ["AMIDIAG_RUNTIME_DIR"]) else []
mine = any(name.startswith("%d-" % os.getpid()) for name in tables)
sys.stdout.write("%d.%d %s\\n" % (sys.version_info[0], sys.version_info[1], "traced" if mine else "not traced"))
"""


@pytest.fixture
def probe(tmp_path: Path) -> str:
    path = tmp_path / "probe.py"
    path.write_text(PROBE)
    return str(path)


HERE = f"{sys.version_info[0]}.{sys.version_info[1]} traced\n".encode()


def test_python_is_traced_wherever_it_is_started(env, probe, tmp_path) -> None:
    """By a shell, by a shell script, as a grandchild through os.system, posix_spawn and exec, with -m."""
    starter = tmp_path / "start.sh"
    starter.write_text(
        f"#!/bin/sh\npython {probe}\nexec python -c 'import os; os.system(\"python {probe}\")'\n"
    )
    starter.chmod(0o755)
    spawn = f"import os; os.waitpid(os.posix_spawnp('python', ['python', {probe!r}], os.environ), 0)"
    for words, times in (
        (["python", probe], 1),
        (["-m", "probe"], 1),
        (["sh", "-c", f"python {probe}; true"], 1),
        ([str(starter)], 2),
        (["python", "-c", spawn], 1),
        (["python", "-c", f"import subprocess as s; s.run(['sh', '-c', 'python {probe}'])"], 1),
    ):
        done = traced(env, *words, cwd=str(tmp_path))
        assert (done.returncode, done.stdout, done.stderr) == (0, HERE * times, b""), words
    # And an orderly end leaves nothing.
    assert os.listdir(tmp_path / "tables") == []
    for words in (
        ["python", "-c", f"import os; os.execvp('python', ['python', {probe!r}])"],
        [AMIDIAG, "run", "--", "python", probe],
    ):
        assert traced(env, *words).stdout == HERE


@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
def test_a_python_without_amidiag_is_traced(env, probe, version) -> None:
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    if not found:
        pytest.skip(f"no Python {version} here")
    python = str(found[-1])
    assert bare(env, python, "-c", "import amidiag", cwd="/").returncode == 1
    assert traced(env, python, probe).stdout == f"{version} traced\n".encode()
    nested = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, {probe!r}]))"
    assert traced(env, python, "-c", nested).stdout == f"{version} traced\n".encode()
    # The tracer's own frame stays in tracebacks of 3.10, and only there.
    fail = "" if version == "3.10" else "; open('/nowhere')"
    same(env, python, "-c", f"import sys; print(sys.path, sorted(sys.flags)){fail}")


@pytest.mark.parametrize("version", ["2.7", "3.9"])
def test_a_python_too_old_to_be_traced_runs_all_the_same(env, probe, version) -> None:
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    if not found:
        pytest.skip(f"no Python {version} here")
    assert traced(env, str(found[-1]), probe).stdout == f"{version} not traced\n".encode()
    same(env, str(found[-1]), "-c", "import sys; print(sys.path, sys.argv); open('/nowhere')", "--json")


def test_torchrun_and_its_workers(env, probe) -> None:
    pytest.importorskip("torch")
    done = traced(env, "torchrun", "--nproc-per-node", "2", probe)
    assert done.returncode == 0, done.stderr
    assert done.stdout == HERE * 2
    failing = traced(env, "torchrun", "--nproc-per-node", "2", "--no-python", "sh", "-c", "exit 7")
    assert failing.returncode == 1
    assert b"exitcode  : 7" in failing.stderr
