"""The door: one clear line and the documented exit code for what users do, on real processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from amidiag.report.json_schema import schema

AMIDIAG = str(Path(sys.executable).parent / "amidiag")
NOBODY = 65534

AT_LIMIT = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
try:
    while True: os.pipe()
except OSError: pass
print("full", flush=True); sys.stdin.read()
"""


def amidiag(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([AMIDIAG, *words], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in lines[0]
    return lines[0]


@pytest.fixture
def target() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", "import os, sys; r, w = os.pipe(); print(1, flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def free_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_json_satisfies_the_schema_and_nothing_else_is_on_stdout(target) -> None:
    done = amidiag("fds", str(target.pid), "--json")
    assert done.returncode == 0
    data = json.loads(done.stdout)
    Draft202012Validator(schema()).validate(data)
    assert data["command"] == "fds"
    fds = data["processes"][0]["fds"]
    assert fds["by_type"]["pipe"] == 4
    assert fds["peers"]["pipe"]["self"] == 2
    assert fds["peers"]["pipe"]["other"] == 2


def test_schema_command_prints_it() -> None:
    assert json.loads(amidiag("schema").stdout) == schema()


def test_tree_and_the_holders_of_the_other_ends() -> None:
    code = (
        "import subprocess as s; p = s.Popen(['cat'], stdin=-1, stdout=-1); print(p.pid, flush=True); input()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        done = amidiag("fds", str(parent.pid), "--tree")
        alone = amidiag("fds", str(parent.pid))
    finally:
        parent.communicate(b"\n")
    assert done.returncode == 0
    headings = [line for line in done.stdout.splitlines() if line.startswith("PID ")]
    assert [int(line.split()[1]) for line in headings] == [parent.pid, child]
    # Two pipes of its own to `cat`, and two to this test.
    pipes = [line for line in done.stdout.splitlines() if re.match(r" *2  pipe ", line)]
    assert f"its tree {child} (cat)" in pipes[0]
    assert f"another process {os.getpid()} (" in pipes[1]
    assert f"its tree {parent.pid} (" in pipes[2]
    assert f"PID {child}" not in alone.stdout


def test_table_has_no_colour_codes_in_a_pipe(target) -> None:
    done = amidiag("fds", str(target.pid), "--tree")
    assert done.returncode == 0
    assert re.search(r"^ *2  pipe ", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("command", ["fds", "rate"])
def test_no_such_process(command) -> None:
    pid = free_pid()
    done = amidiag(command, str(pid), "--json")
    assert done.returncode == 3
    assert f"there is no process {pid}" in one_line(done)
    assert json.loads(done.stdout)["exit_code"] == 3
    assert amidiag(command, str(pid)).stdout == ""


def test_process_that_ends_while_it_is_watched(target) -> None:
    words = [AMIDIAG, "rate", str(target.pid), "--for", "60s", "--json"]
    watch = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watch.stderr is not None
    watch.stderr.readline()
    target.kill()
    target.wait()
    printed, errors = watch.communicate(timeout=30)
    assert watch.returncode == 3
    assert f"process {target.pid}" in errors and "has ended" in errors
    assert "Traceback" not in errors
    data = json.loads(printed)
    Draft202012Validator(schema()).validate(data)
    assert data["processes"][0]["pid"] == target.pid
    assert data["data"]["samples"] >= 1
    assert "what was seen until then is judged" in data["notes"][0]


def test_process_at_its_fd_limit() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", AT_LIMIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    done = amidiag("fds", str(process.pid), "--json")
    process.communicate()
    assert done.returncode == 1
    data = json.loads(done.stdout)
    assert [f["code"] for f in data["findings"]] == ["FD190"]
    assert data["processes"][0]["fds"]["open"] == 128 or data["processes"][0]["fds"]["open"] == 127
    assert data["processes"][0]["fds"]["soft_limit"] == 128


@pytest.mark.root
def test_process_of_another_user(target, tmp_path) -> None:
    # This checkout lies where `nobody` may not look: root runs it first, for the modules, then the user is given up.
    code = (
        "import contextlib, io, os, sys; from amidiag.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(sys.argv[1:])\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY}); sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "fds", str(target.pid), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    data = json.loads(done.stdout)
    if done.returncode == 3:
        assert "root" in one_line(done)
    else:
        # What is world-readable is answered, what is not is null and said.
        process = data["processes"][0]
        assert process["fds"]["by_type"] is None
        assert process["fds"]["soft_limit"] is not None
        assert any("root" in note for note in data["notes"])
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["fds", "--name", "("],
        ["fds", "x"],
        ["fds", "0"],
        ["rate", "1", "--for", "soon"],
        ["rate", "1", "--for", "9" * 400],
        ["rate", "1", "--interval", "nan"],
        ["rate", "1", "--interval", "inf"],
        ["nothing"],
    ],
)
def test_usage(words) -> None:
    done = amidiag(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    told = amidiag(*words, "--json")
    assert (told.returncode, told.stderr) == (2, done.stderr)
    data = json.loads(told.stdout)
    Draft202012Validator(schema()).validate(data)
    assert (data["command"], data["exit_code"]) == (words[0], 2)
    assert data["notes"][0] in " ".join(done.stderr.split())


@pytest.mark.parametrize("command", ["soak", "gate"])
def test_broken_recipe(command, tmp_path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text('[recipe]\nname = "x"\ntitle = "t"\n[load]\ncycels = 3\n')
    done = amidiag(command, str(path))
    assert done.returncode == 2
    assert one_line(done).startswith(f"amidiag: {path}:5: load.cycels: unknown key; did you mean cycles?")
    done = amidiag(command, "quickstat")
    assert done.returncode == 2
    assert "did you mean quickstart?" in one_line(done)


def test_help_has_examples_and_exit_codes() -> None:
    for command in ("fds", "rate", "soak", "gate"):
        done = amidiag(command, "--help")
        assert done.returncode == 0
        assert f"  amidiag {command} " in done.stdout
    assert "Exit codes: 0 nothing wrong found, 1 a finding" in amidiag("--help").stdout


def test_soak_list() -> None:
    lines = amidiag("soak", "list").stdout.splitlines()
    names = [line.split()[0] for line in lines]
    assert "quickstart  " in lines[names.index("quickstart")]
    assert lines[names.index("quickstart")].endswith(
        "A worker leaks pipes on every loader; one setting ends it"
    )
    assert {"quickstart", "polling-only"} <= set(names)
    data = json.loads(amidiag("soak", "list", "--json").stdout)
    Draft202012Validator(schema()).validate(data)
    assert data["data"]["recipes"] == names


@pytest.mark.parametrize("option", ["--keep", "--write-env"])
def test_an_unusable_path_is_refused_before_the_soak(option, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" if option == "--keep" else tmp_path
    done = amidiag("soak", "polling-only", option, str(path))
    assert done.returncode == 2
    assert f"{path}" in done.stderr.splitlines()[-1]
    assert "cycles" not in done.stderr


def test_version() -> None:
    done = amidiag("--version")
    assert (done.returncode, done.stdout) == (0, f"amidiag {version('amidiag')}\n")


def test_light_paths_import_nothing_heavy(target) -> None:
    code = (
        "import sys; from amidiag.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'requests', 'memray', 'PIL'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "assert '--json' not in sys.argv or 'rich' not in sys.modules\n"
        "sys.exit(code)"
    )
    for words in (["fds", str(target.pid), "--json"], ["fds", str(target.pid)], ["--help"], ["schema"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_rate_of_an_unprepared_leaking_program_says_rising_never_leak() -> None:
    code = "import os, time\nkeep = []\nwhile True: keep.append(os.pipe()); time.sleep(0.02)"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        done = amidiag("rate", str(process.pid), "--for", "6s", "--interval", "0.05", "--json")
    finally:
        process.kill()
        process.wait()
    assert done.returncode == 4
    series = {s["resource"]: s for s in json.loads(done.stdout)["series"]}
    assert series["fd"]["verdict"] == "growing"
    assert series["fd"]["rate"]["per"] == "seconds"
    assert series["fd"]["rate"]["value"] > 10


def test_rate_of_a_still_program_is_undecided(target) -> None:
    done = amidiag("rate", str(target.pid), "--for", "2s", "--interval", "0.05", "--json")
    assert done.returncode == 4
    assert {s["verdict"] for s in json.loads(done.stdout)["series"]} == {"undecided"}


def test_ctrl_c_is_one_line(target) -> None:
    watch = subprocess.Popen(
        [AMIDIAG, "rate", str(target.pid), "--for", "60s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watch.stderr is not None
    watch.stderr.readline()
    time.sleep(0.1)
    watch.send_signal(signal.SIGINT)
    _, errors = watch.communicate(timeout=30)
    assert watch.returncode == 130
    # It has started nothing, so it has ended nothing.
    assert errors.splitlines()[-1] == "amidiag: interrupted"
    assert "Traceback" not in errors


def test_19000_fds_agree_with_ls_by_type() -> None:
    assert shutil.which("ls")
    code = """
import os, select, socket, sys
n = int(sys.argv[1])
keep = []
for i in range(n // 2): keep.append(os.pipe())
for i in range((n // 10)): keep.append(socket.socketpair())
for i in range((n // 10)): keep.append(os.open("/dev/null", os.O_RDONLY))
for i in range((n // 20)): keep.append(os.eventfd(0)); keep.append(os.memfd_create("x"))
for i in range((n // 20)): keep.append(os.open("/etc/passwd", os.O_RDONLY))
for i in range((n // 20)): keep.append(os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY))
for i in range(10): keep.append(select.epoll())
print("ready", flush=True); sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(12_800)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    listing = subprocess.run(
        ["ls", "-l", f"/proc/{process.pid}/fd"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[1:]
    links = [line.split(" -> ", 1)[1] for line in listing]
    done = amidiag("fds", str(process.pid), "--json")
    process.communicate()
    fds = json.loads(done.stdout)["processes"][0]["fds"]
    assert len(links) > 19_000
    assert fds["open"] == len(links)

    def count(pattern: str) -> int:
        return sum(bool(re.match(pattern, link)) for link in links)

    assert fds["by_type"] == {
        "pipe": count(r"pipe:"),
        "socket": count(r"socket:"),
        "device": count(r"/dev/"),
        "eventfd": count(r"anon_inode:\[eventfd\]"),
        "eventpoll": count(r"anon_inode:\[eventpoll\]"),
        "memfd": count(r"/memfd:"),
        "regular": count(r"/etc/passwd"),
        "directory": count(r"/tmp$"),
    }
