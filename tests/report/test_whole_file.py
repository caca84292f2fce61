"""Files written whole or not at all: `.env` files and JUnit reports, on links, for others, on full disks."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from amidiag.diagnosis.envfile import write_mitigations
from amidiag.diagnosis.sentinel_pipes import MITIGATIONS
from amidiag.diagnosis.whole_file import write_whole
from amidiag.model import Finding
from amidiag.report.junit import Case, junit_xml

FINDING = Finding("FD101", "t", "error", 1, "fd.pipe", "c", mitigations=MITIGATIONS)
SETTING = "AMI_ANTENNA_API_DATALOADER_PERSISTENT_WORKERS=false\n"
NOBODY = 65534
GREEN = junit_xml("amidiag gate own", [Case("arm", "fd", "passed", "flat", "")])
RECIPE = """
[recipe]
name = "own"
title = "A worker that does not work"
[worker]
command = [{command}]
[load]
cycles = 20
warm_up = 1
seed = 1
[load.polls]
no_job = 1.0
[[arm]]
name = "a"
"""


def _names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def _recipe(directory: Path, *command: str) -> Path:
    path = directory / "own.toml"
    path.write_text(RECIPE.format(command=", ".join(f'"{word}"' for word in command)))
    return path


def _gate(recipe: Path, junit: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "amidiag.cli.main", "gate", str(recipe), "--junit", str(junit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_env_file_behind_a_link_is_written_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    real = tmp_path / "config" / "worker.env"
    real.write_text("A=1\n")
    real.chmod(0o640)
    link = tmp_path / ".env"
    link.symlink_to("config/worker.env")
    write_mitigations(link, [FINDING])
    assert link.is_symlink()
    assert real.read_text() == "A=1\n" + SETTING
    assert real.stat().st_mode & 0o777 == 0o640
    assert (_names(tmp_path), _names(real.parent)) == ([".env", "config"], ["worker.env"])


def test_new_env_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    write_mitigations(tmp_path / ".env", [FINDING])
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600


@pytest.mark.root
def test_env_file_of_another_user_stays_theirs(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o640)
    write_mitigations(path, [FINDING])
    assert path.read_text() == "A=1\n" + SETTING
    info = path.stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (NOBODY, NOBODY, 0o640)


@pytest.mark.root
def test_owner_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(0o777)
    path = directory / "file"
    path.write_text("old")
    pid = os.fork()
    if pid == 0:
        # In the directory already: `nobody` may not pass pytest's own one above it.
        os.chdir(directory)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            write_whole(Path("file"), "new")
            os._exit(0)
        except PermissionError:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert path.read_text() == "old"
    assert _names(directory) == ["file"]


@pytest.mark.parametrize("what", ["directory", "fifo", "loop", "missing"])
def test_what_is_no_file_is_refused_and_left(tmp_path: Path, what) -> None:
    path = tmp_path / "x"
    if what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "loop":
        path.symlink_to("x")
    else:
        path = tmp_path / "no" / "x"
    before = _names(tmp_path)
    with pytest.raises(OSError) as raised:
        write_whole(path, "text")
    expected = {
        "directory": errno.EISDIR,
        "fifo": errno.EINVAL,
        "loop": errno.ELOOP,
        "missing": errno.ENOENT,
    }
    assert raised.value.errno == expected[what]
    assert _names(tmp_path) == before


def test_text_that_cannot_be_encoded_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "x", "a\udcff")
    assert _names(tmp_path) == []


def test_junit_holds_what_xml_cannot() -> None:
    dirty = "\x1b[31mred\x00\x0b\ud800\ufffe end\t\U0001f41b\n"
    cases = [
        Case(dirty, dirty, outcome, dirty, dirty) for outcome in ("failed", "passed", "undecided", "error")
    ]
    root = ElementTree.fromstring(junit_xml(f"gate {dirty}", cases).encode())
    clean = "\ufffd[31mred\ufffd\ufffd\ufffd\ufffd end\t\U0001f41b\n"
    assert (root.get("errors"), root.get("failures"), root.get("tests")) == ("1", "1", "4")
    assert root.get("name") == f"gate {clean}"
    error = root.find(".//error")
    assert error is not None and (error.get("message"), error.text) == (clean, clean)
    assert {case.get("name") for case in root.iter("testcase")} == {clean}


def test_gate_refuses_a_directory_before_the_soak(tmp_path: Path) -> None:
    marker = tmp_path / "the worker ran"
    recipe = _recipe(tmp_path, "touch", str(marker))
    gate = _gate(recipe, tmp_path)
    _, err = gate.communicate()
    assert gate.returncode == 2
    assert err.startswith(f"amidiag: cannot write {tmp_path}: Is a directory")
    assert not marker.exists()
    assert _names(tmp_path) == ["own.toml"]


def test_gate_of_a_worker_that_does_not_run_leaves_no_green_report(tmp_path: Path) -> None:
    junit = tmp_path / "gate.xml"
    junit.write_text(GREEN)
    gate = _gate(_recipe(tmp_path, "sh", "-c", "printf '\\\\033[31mno GPU' >&2; exit 9"), junit)
    gate.communicate()
    assert gate.returncode == 3
    root = ElementTree.parse(junit).getroot()
    assert (root.get("name"), root.get("tests"), root.get("errors")) == ("amidiag gate own", "1", "1")
    error = root.find(".//error")
    assert error is not None and error.text is not None
    assert "exit status 9" in error.get("message", "")
    assert "no GPU" in error.text
    assert _names(tmp_path) == ["gate.xml", "own.toml"]


def test_gate_that_is_interrupted_leaves_no_green_report(tmp_path: Path) -> None:
    junit = tmp_path / "gate.xml"
    junit.write_text(GREEN)
    gate = _gate(_recipe(tmp_path, "sleep", "600"), junit)
    deadline = time.monotonic() + 60
    while junit.read_text() == GREEN and time.monotonic() < deadline:
        time.sleep(0.01)
    # Already now, should it be killed.
    error = ElementTree.parse(junit).getroot().find(".//error")
    assert error is not None and "did not end" in error.get("message", "")
    gate.send_signal(signal.SIGINT)
    gate.communicate()
    assert gate.returncode == 130
    assert ElementTree.parse(junit).getroot().get("errors") == "1"
    assert _names(tmp_path) == ["gate.xml", "own.toml"]


def test_gate_on_a_full_disk_refuses_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "the worker ran"
    recipe, small = _recipe(tmp_path, "touch", str(marker)), tmp_path / "small"
    small.mkdir()
    script = (
        f"mount -t tmpfs -o size=8k none {small} && printf old >{small}/gate.xml && "
        f"head -c 4096 /dev/zero >{small}/fill && "
        f"{sys.executable} -m amidiag.cli.main gate {recipe} --junit {small}/gate.xml; "
        f'echo "$? $(cat {small}/gate.xml) $(ls -A {small} | tr "\\n" ,)"'
    )
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, check=True)
    assert "No space left on device" in done.stderr
    assert done.stdout == "2 old fill,gate.xml,\n"
    assert not marker.exists()
