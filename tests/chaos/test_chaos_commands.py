"""`benchmarks.recovery` and `benchmarks.day` as people meet them: wrong options, Ctrl-C, what they say at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from amidiag.soak.chaos.options import Options, at_least_one, more_than_nothing, new_directory, some_of
from amidiag.soak.chaos.outcome import Outcome
from amidiag.soak.chaos.rounds import Moment

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0


def command(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["benchmarks.recovery", "--moments", "0"], "--moments: must be at least 1, not 0"),
        (
            ["benchmarks.recovery", "--contexts", "forks"],
            "--contexts: there is no 'forks'; there are: fork, ",
        ),
        (
            ["benchmarks.day", "--groups", "nix"],
            "--groups: there is no 'nix'; there are: loader, server, worker",
        ),
        (["benchmarks.day", "--minutes", "-3"], "--minutes: must be more than 0, not -3"),
    ],
)
def test_a_wrong_option_is_one_line(words: list[str], says: str) -> None:
    process = command(*words)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out) == (2, "")
    (line,) = err.splitlines()
    assert says in line


def read(*words: str) -> object:
    options = Options("x", None)
    options.add_argument("--count", type=at_least_one)
    options.add_argument("--seconds", type=more_than_nothing)
    options.add_argument("--names", type=some_of(["a", "b"]), default="a,b", help="which")
    options.add_argument("--into", type=new_directory)
    assert "(default: a,b)" in options.format_help()
    return options.parse_args(words)


@pytest.mark.parametrize("words", ["--count=x", "--count=1.5", "--seconds=nan", "--seconds=inf", "--names="])
def test_what_is_no_number_or_no_name_is_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        read(words)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_logs_are_kept_in_an_empty_directory_only(tmp_path: Path) -> None:
    read("--into", str(tmp_path / "new"))
    (tmp_path / "file").touch()
    for used in (tmp_path, tmp_path / "file"):
        with pytest.raises(SystemExit, match="2"):
            read("--into", str(used))


def test_a_name_counts_once() -> None:
    assert vars(read("--names", "b, a,b"))["names"] == ["b", "a"]  # type: ignore[call-overload]


def test_what_failed_is_said_in_words() -> None:
    became = Outcome(images=64, once=62, lost=1, open=1, redelivered=3)
    moment = Moment("kill -9", 7, 0.25, True, 1.5, 2.0, became, (75, -9), hung=False)
    assert moment.words == (
        "struck at 25%, recovered in 1.50 s; job 7, 64 images: 62 answered once, 1 lost, 1 still open, "
        "3 handed out again; the worker ended with code 75; the worker ended with signal 9"
    )


@pytest.mark.parametrize(
    ("words", "head"),
    [
        (["benchmarks.recovery", "--moments", "2", "--contexts", "fork", "--faults", "kill -9"], "| fault |"),
        (["benchmarks.day", "--minutes", "1", "--contexts", "fork", "--images", "8", "--json"], ""),
    ],
)
def test_ctrl_c_shows_what_there_is_and_leaves_nothing_behind(
    tmp_path: Path, words: list[str], head: str
) -> None:
    temporary, logs = tmp_path / "temporary", tmp_path / "logs"
    temporary.mkdir()
    process = command(*words, "--keep", str(logs), TMPDIR=str(temporary))
    limit = time.monotonic() + LIMIT_S
    while not list(logs.rglob("worker.log")):
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # of somebody impatient
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    announced, interrupted, *rest = err.splitlines()
    assert "Ctrl-C ends it" in announced
    assert interrupted == "interrupted by SIGINT; what there is so far:"
    if head:
        assert out.startswith(head)
        assert "0 strikes (2 of 2 not tried): nothing tried" in out
        assert rest == []
    else:
        (day,) = json.loads(out)
        assert day["plan"]["context"] == "fork"
        assert day["outcome"]["lost"] == 0
    assert list(temporary.iterdir()) == []
    assert [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(logs).encode() in contents(p)] == []


def contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
