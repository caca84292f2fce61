"""`amidiag.trace`: switched on by a program's own code, and around a piece of it in a test."""

import builtins
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import amidiag.trace


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", str(tmp_path / "run"))


def leak_pipes(number: int) -> list[int]:
    return [end for _ in range(number) for end in os.pipe()]


def test_what_a_block_leaves_open_is_named_by_its_line(tmp_path: Path) -> None:
    before = os.pipe()
    with amidiag.trace.tracing() as traced:
        leaked = leak_pipes(3)
        kept = socket.socket()
        with open(tmp_path / "closed", "w") as file:
            file.write("x")
        rows = traced.open_now(types=("pipe", "socket", "regular"))
    assert [(row.count, dict(row.by_type)) for row in rows] == [(6, {"pipe": 6}), (1, {"socket": 1})]
    assert rows[0].group.startswith(f"{__file__}:") and rows[0].group.endswith(
        "leak_pipes.<locals>.<listcomp>" if sys.version_info < (3, 12) else "leak_pipes"
    )
    kept.close()
    for fd in (*leaked, *before):
        os.close(fd)


def test_a_clean_block_leaves_nothing() -> None:
    with amidiag.trace.tracing() as traced:
        for _ in range(50):
            for end in os.pipe():
                os.close(end)
            socket.socket().close()
        assert traced.open_now(types=("pipe", "socket")) == ()


def test_afterwards_everything_is_as_before(tmp_path: Path) -> None:
    found = (
        os.pipe,
        os.open,
        builtins.open,
        vars(socket.socket)["__init__"],
        dict(os.environ),
        list(sys.meta_path),
    )
    with amidiag.trace.tracing() as traced:
        assert os.pipe is not found[0]
    assert (
        os.pipe,
        os.open,
        builtins.open,
        vars(socket.socket)["__init__"],
        dict(os.environ),
        list(sys.meta_path),
    ) == found
    assert all(type(a) is type(b) for a, b in zip(found, (os.pipe, os.open, builtins.open), strict=False))
    assert list((tmp_path / "run").iterdir()) == []
    with pytest.raises(amidiag.trace.TracingError, match="has ended"):
        traced.open_now()


def test_inside_another_only_what_is_new_is_told_and_tracing_stays_on() -> None:
    with amidiag.trace.tracing() as outer:
        first = leak_pipes(1)
        with amidiag.trace.tracing() as inner:
            second = leak_pipes(1)
            assert [row.count for row in inner.open_now(types=("pipe",))] == [2]
        assert [row.count for row in outer.open_now(types=("pipe",))] == [4]
    for fd in (*first, *second):
        os.close(fd)


def test_where_it_cannot_be_switched_on_a_test_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", "/proc/nowhere")
    with pytest.raises(amidiag.trace.TracingError, match="/proc/nowhere"), amidiag.trace.tracing():
        pass
    assert type(os.pipe) is type(len)


def test_a_program_may_install_it_itself_and_its_children_are_traced(tmp_path: Path) -> None:
    program = (
        "import os, subprocess, sys, amidiag.trace\n"
        "tracer = amidiag.trace.install()\n"
        "ask = 'import sys; print(sys.modules[\"_amidiag_target.tracer\"].TRACER.region is not None)'\n"
        "print(tracer.error, os.path.exists(tracer.path), flush=True)\n"
        "subprocess.run([sys.executable, '-c', ask])\n"
        "amidiag.trace.uninstall()\n"
        "subprocess.run([sys.executable, '-c', 'import sys; print(\"_amidiag_target\" in sys.modules)'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["None True", "True", "False"], done.stderr
