"""The log as JSON: one object a line, whatever is said, and never a secret."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from worker_rig import TOKEN, Running, ended, job, traps

from amidiag.soak.antenna import AntennaServer
from worker import logs

Start = Callable[..., Running]
SECRET = 'tok"en\\with-quotes'


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, sys.unraisablehook
    yield
    root.handlers[:], root.level = handlers, level
    sys.excepthook, sys.unraisablehook = hooks
    logging.captureWarnings(capture=False)


def _in_a_process(code: str, **environ: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", f"from worker import logs\nimport logging\n{code}"],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
        check=False,
    )
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_a_line_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    logs.to_stderr("info", "json")
    extra = {"uses": {"fds": 23, "share": float("nan")}, "message_id": 1, "pid_of": (1, 2)}
    logging.getLogger("worker.loop").warning("job %s: two\nlines", 12, extra=extra)
    line = json.loads(capsys.readouterr().err)
    said = datetime.fromisoformat(line.pop("time"))
    assert said.tzinfo is not None and abs((datetime.now().astimezone() - said).total_seconds()) < 60
    assert line == {
        "level": "warning",
        "logger": "worker.loop",
        "message": "job 12: two\nlines",
        "pid": os.getpid(),
        "uses": {"fds": 23, "share": "nan"},
        "message_id": 1,
        "pid_of": [1, 2],
    }


def test_an_exception_is_one_field(capsys: pytest.CaptureFixture[str]) -> None:
    logs.to_stderr("info", "json")
    try:
        raise ValueError("bad\nimage")
    except ValueError:
        logging.getLogger("x").exception("failed")
    line = json.loads(capsys.readouterr().err)
    assert line["message"] == "failed"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: bad\nimage")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_secret_is_masked_wherever_it_occurs(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.to_stderr("info", log_format, secrets=[SECRET, "", "ab"])
    try:
        raise OSError(f"Invalid header {SECRET}")
    except OSError:
        logging.getLogger("x").exception(
            "Token %s in about", SECRET, extra={"why": [f"<{SECRET}>"], SECRET: {SECRET: 1}}
        )
    said = capsys.readouterr().err
    assert "with-quotes" not in said
    assert "Token *** in about" in said
    assert "Invalid header ***" in said


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_line_that_cannot_be_written_is_one_line_without_its_arguments(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a library: Python would print a traceback, and whatever the arguments are."""
    logs.to_stderr("info", log_format, secrets=[SECRET])
    endless: list[Any] = []
    endless.append(endless)
    logging.getLogger("lib").info("%d images", SECRET)
    too_few = "%s and %s"
    logging.getLogger("lib").info(too_few, SECRET)
    if log_format == "json":
        logging.getLogger("lib").info("endless", extra={"one": endless})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 + (log_format == "json")
    assert all("could not be written" in line for line in lines)
    assert not any(SECRET in line for line in lines)
    if log_format == "json":
        assert [json.loads(line)["logger"] for line in lines] == ["lib"] * 3


def test_what_nobody_catches_is_one_line_each() -> None:
    code = (
        "import threading, warnings, gc\n"
        "logs.to_stderr('info')\n"
        "def fail(): raise RuntimeError('in a thread')\n"
        "thread = threading.Thread(target=fail, name='ami-poster'); thread.start(); thread.join()\n"
        "class Rude:\n"
        "    def __del__(self): raise RuntimeError('in a destructor')\n"
        "Rude()\n"
        "warnings.warn('pinning without an accelerator')\n"
        "raise RuntimeError('in the program')"
    )
    lines = _in_a_process(code, AMI_WORKER_LOG_FORMAT="json")
    assert [line["level"] for line in lines] == ["critical", "error", "warning", "critical"]
    assert "ami-poster" in lines[0]["message"] and "in a thread" in lines[0]["exception"]
    assert "in a destructor" in lines[1]["exception"]
    assert lines[2]["logger"] == "py.warnings" and "pinning" in lines[2]["message"]
    assert "in the program" in lines[3]["exception"]


def test_ctrl_c_is_no_traceback() -> None:
    (line,) = _in_a_process("logs.to_stderr('info', 'json')\nraise KeyboardInterrupt")
    assert line["message"] == "interrupted" and "exception" not in line


def test_a_worker_says_everything_so(server: AntennaServer, start: Start) -> None:
    server.add_job(job(*traps(3)))
    settings = {"AMI_WORKER_LOG_FORMAT": "json", "AMI_NUM_WORKER": 1}
    code, out, err = ended(start("run", "--once", server=server, **settings))
    assert (code, out) == (0, "")
    lines = [json.loads(line) for line in err.splitlines()]
    assert "AMI_NUM_WORKER " in lines[0]["message"]
    (done,) = [line["job"] for line in lines if "images" in line.get("job", {})]
    assert (done["id"], done["pipeline"], done["images"], done["errors"]) == (1, "moth_binary", 3, 0)
    (uses,) = [line["uses"] for line in lines if "uses" in line]
    assert uses["fds"] == sum(uses["fds_by_type"].values()) > 3
    assert uses["memory_anonymous"] > 2**20
    assert set(uses["change"]) > {"fds", "memory_tree", "shm_held"}
    assert TOKEN not in err


def test_bad_settings_are_said_so_too(start: Start) -> None:
    code, out, err = ended(start("run", AMI_WORKER_LOG_FORMAT="json", AMI_NUM_WORKERS="many"))
    assert (code, out) == (78, "")
    (line,) = [json.loads(line) for line in err.splitlines()]
    assert line["level"] == "error"
    assert "AMI_NUM_WORKERS=many" in line["message"]


def test_bad_settings_are_text_else(start: Start) -> None:
    _, _, err = ended(start("run", AMI_NUM_WORKERS="many"))
    assert err.startswith("ami: bad setting: AMI_NUM_WORKERS=many")
