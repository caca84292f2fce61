"""Exit code 1 says "a finding" and nothing else: what becomes of full disks, closed pipes, dead servers and bugs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from jsonschema import Draft202012Validator

from amidiag.report.json_schema import schema

AMIDIAG = str(Path(sys.executable).parent / "amidiag")
# As a user starts it: with PYTHONUNBUFFERED nothing would be left for the interpreter to flush at its end.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

# A command that goes wrong as no shipped one is known to; `door` and `main` are the real ones.
BROKEN = """
import sys
from amidiag.cli import click_app, commands, main
def broken() -> int:
    {body}
click_app.app.command("broken")(commands.interruptible(broken, "interrupted"))
sys.argv[0] = "amidiag"
main.run()
"""


def broken(body: str, *words: str, debug: bool = False) -> subprocess.CompletedProcess[str]:
    env = BUFFERED | ({"AMIDIAG_DEBUG": "1"} if debug else {})
    return subprocess.run(
        [sys.executable, "-c", BROKEN.format(body=body), "broken", *words],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )


@pytest.mark.parametrize(
    "words", [["fds", "{pid}"], ["fds", "{pid}", "--json"], ["schema"], ["--version"], ["--help"]]
)
@pytest.mark.parametrize("env", [BUFFERED, BUFFERED | {"PYTHONUNBUFFERED": "1"}])
def test_a_full_disk_is_one_line(words, env) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [AMIDIAG, *(word.format(pid=os.getpid()) for word in words)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=env,
        )
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith("amidiag: ")
    assert "No space left on device" in line


def test_a_full_disk_behind_standard_error_changes_nothing() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [AMIDIAG, "rate", str(os.getpid()), "--for", "0.5s", "--json"],
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
            env=BUFFERED,
        )
    assert done.returncode == 4
    assert json.loads(done.stdout)["exit_code"] == 4


def test_closed_standard_output_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{AMIDIAG} fds {os.getpid()} >&-"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("fds {pid} --json", 0),
        ("fds {pid}", 0),
        ("schema", 0),
        ("--help", 0),
        ("fds {gone} --json", 3),
        ("rate {pid} --for 0.5s --json 2>/dev/null", 4),
    ],
)
@pytest.mark.parametrize("env", [BUFFERED, BUFFERED | {"PYTHONUNBUFFERED": "1"}])
def test_a_reader_that_has_left_does_not_change_the_exit_code(words, code, env) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    command = f"{AMIDIAG} {words.format(pid=os.getpid(), gone=gone.pid)}"
    # The program starts only when the reader has ended, so that its first write finds a closed pipe.
    shell = f"{{ read -r -t 0.3 < <(sleep 1); {command}; }} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True, env=env)
    assert done.stdout == f"{code}\n"
    assert "Exception ignored" not in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == (1 if code == 3 else 0)


def test_a_reader_that_leaves_in_the_middle() -> None:
    # The schema is larger than one write of `head`, and what it has read it keeps.
    shell = f"{AMIDIAG} schema | head -c 1; echo; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True, env=BUFFERED)
    assert (done.stdout.split()[0], done.stderr) == ("{", "")


def test_another_broken_pipe_is_not_taken_for_the_reader_of_the_output() -> None:
    done = broken("import os; r, w = os.pipe(); os.close(r); os.write(w, b'x'); return 0")
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert "the other end of a pipe or socket is gone" in line


def test_an_os_error_says_what_failed() -> None:
    done = broken("return len(open('/nowhere/at/all').read())")
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line == "amidiag: broken failed: [Errno 2] No such file or directory: '/nowhere/at/all'"


def test_a_bug_is_one_line_and_never_a_finding() -> None:
    done = broken("return {}['key']")
    assert done.returncode == 70
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "amidiag: this is a bug in amidiag: KeyError: 'key'; run it again with AMIDIAG_DEBUG=1"
    )
    told = broken("return {}['key']", debug=True)
    assert told.returncode == 70
    assert told.stderr.startswith("Traceback (most recent call last):")
    assert told.stderr.splitlines()[-1] == "amidiag: this is a bug in amidiag: KeyError: 'key'"


def test_a_module_of_ours_that_is_missing_is_a_bug_and_not_an_extra() -> None:
    done = broken("import amidiag.nowhere; return 0")
    assert done.returncode == 70
    assert "ModuleNotFoundError" in done.stderr


def test_ctrl_c_before_any_command_has_begun() -> None:
    done = broken("import click; raise click.Abort")
    assert (done.returncode, done.stderr) == (130, "amidiag: interrupted\n")


def test_a_process_name_that_is_no_text_is_printed_all_the_same(tmp_path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9"
    os.symlink(b"/bin/cat", name)
    process = subprocess.Popen([name], stdin=subprocess.PIPE)
    try:
        done = [
            subprocess.run(
                [AMIDIAG, "fds", str(process.pid), *words],
                capture_output=True,
                check=False,
                env=BUFFERED | {"PYTHONIOENCODING": "ascii"} if not words else BUFFERED,
            )
            for words in ([], ["--json"])
        ]
    finally:
        process.communicate()
    assert [d.returncode for d in done] == [0, 0], done
    assert b"caf" in done[0].stdout
    Draft202012Validator(schema()).validate(json.loads(done[1].stdout))


@pytest.mark.parametrize("command", ["soak", "gate"])
def test_an_embedded_server_that_dies_cannot_be_observed(command) -> None:
    soak = subprocess.Popen(
        [AMIDIAG, command, "polling-only", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=BUFFERED,
    )
    server = _server_of(psutil.Process(soak.pid))
    server.send_signal(signal.SIGKILL)
    out, errors = soak.communicate(timeout=60)
    assert soak.returncode == 3, errors
    assert "Traceback" not in errors
    assert json.loads(out)["exit_code"] == 3
    assert "server" in errors.splitlines()[-1]


def _server_of(soak: psutil.Process) -> psutil.Process:
    for _ in range(600):
        for child in soak.children(recursive=True):
            if "amidiag.soak.antenna" in child.cmdline():
                return child
        time.sleep(0.05)
    raise AssertionError("no embedded server was started")
