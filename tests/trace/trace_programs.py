"""Small programs, run bare and traced: what they say must be the same; and what their tables say of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amidiag.attach.trace_files import BadTableError, Made, Region, Table, read_table
from amidiag.target.inherit import environment

Done = subprocess.CompletedProcess[str]

_VARIES = re.compile(r"0x[0-9a-f]+|pid=[0-9]+")
_HOOK = re.compile(r'  File "[^"]*/amidiag/target/hook\.py", line \d+, in \w+(\n|\\n)    result = call.*?\1')


def pythons() -> list[str]:
    """This Python, and of every other minor version that is traced one, where pyenv has it."""
    found = {sys.version_info[:2]: sys.executable}
    for path in sorted(Path.home().glob(".pyenv/versions/3.*/bin/python")):
        minor = path.parts[-3].split(".")[1]
        if minor.isdecimal() and int(minor) >= 10:
            found.setdefault((3, int(minor)), str(path))
    return [path for _, path in sorted(found.items())]


@dataclass
class Programs:
    """Runs programs in a directory of the test's own; their tables lie in `tables`."""

    directory: Path
    python: str = sys.executable

    @property
    def tables(self) -> Path:
        return self.directory / "tables"

    def env(self, *, traced: bool = True, **more: str) -> dict[str, str]:
        """As a user's shell would have it, and tracing asked for by the environment alone."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AMI"))}
        env = mine | {"AMIDIAG_RUNTIME_DIR": str(self.tables), "PYTHONDONTWRITEBYTECODE": "1"} | more
        return environment(env) if traced else env

    def script(self, code: str, name: str = "program.py") -> str:
        path = self.directory / name
        path.write_text(code)
        return str(path)

    def run(
        self,
        code: str,
        *words: str,
        traced: bool = True,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Done:
        """Run it to its end. `options`: of Python. `env`: what is added to the environment."""
        command = [self.python, *options, self.script(code), *words]
        return subprocess.run(
            command,
            env=self.env(traced=traced, **(env or {})),
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            **more,
        )

    def same(self, code: str, *words: str, **more: Any) -> Done:
        """Run it bare and traced, see to it that code and outputs are the same, and give them."""
        bare = _plain(self.run(code, *words, traced=False, **more))
        done = _plain(self.run(code, *words, **more))
        assert (done.returncode, done.stdout, done.stderr) == (bare.returncode, bare.stdout, bare.stderr)
        return done

    def start(self, code: str, *words: str, wrapper: Sequence[str] = (), **env: str) -> Running:
        """Start it. It says things by `print(json, flush=True)` and waits by `input()`."""
        process = subprocess.Popen(
            [*wrapper, self.python, self.script(code), *words],
            env=self.env(**env),
            cwd=self.directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return Running(process, self)


def _plain(done: Done) -> Done:
    """Without addresses and process numbers; and without the frame of a hook, which on 3.10 stays."""
    done.stdout, done.stderr = (_VARIES.sub("", text) for text in (done.stdout, done.stderr))
    if sys.executable != done.args[0] and "3.10" in done.args[0]:
        done.stdout, done.stderr = (_HOOK.sub("", text) for text in (done.stdout, done.stderr))
    return done


@dataclass
class Running:
    """A program that waits to be told to go on."""

    process: subprocess.Popen[str]
    programs: Programs

    def said(self) -> Any:
        """The next thing that it says."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait()}"
        return json.loads(line)

    def go_on(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Let it come to its end; the exit code."""
        self.process.communicate("\n")
        return self.process.returncode

    def table(self, pid: int | None = None) -> Table:
        return read_table(str(path_of(self.programs.tables, pid or self.process.pid)))

    def region(self, pid: int | None = None) -> Region:
        """What the process itself has noted, in whichever table that lies."""
        return region_of(self.programs.tables, pid or self.process.pid)

    def made(self, pid: int | None = None) -> list[Made]:
        return made_in(self.region(pid))


def path_of(tables: Path, pid: int) -> Path:
    """The newest table that a process has made."""
    found = sorted(tables.glob(f"{pid}-*.trace"), key=lambda path: path.stat().st_mtime_ns)
    assert found, f"process {pid} has no table"
    return found[-1]


def regions(tables: Path) -> list[Region]:
    found: list[Region] = []
    for path in tables.glob("*.trace"):
        try:
            found += read_table(str(path)).regions
        except (BadTableError, FileNotFoundError):
            continue  # Just being made, or taken away: by another process than the one that is asked about.
    return found


def region_of(tables: Path, pid: int) -> Region:
    found = [region for region in regions(tables) if region.pid == pid]
    assert found, f"process {pid} has no region"
    return max(found, key=lambda region: region.claimed)


def made_in(region: Region) -> list[Made]:
    """All that is noted there, in the order of its making."""
    return sorted((region.made(slot) for slot in region.slots), key=lambda made: made.boottime_ns)


def lines(made: Sequence[Made], kind: str | None = None, file: str = "program.py") -> list[int]:
    """The program's own innermost line of each."""
    return [
        next(frame.line for frame in one.stack if frame.file.endswith("/" + file))
        for one in made
        if kind in (None, one.kind) and any(frame.file.endswith("/" + file) for frame in one.stack)
    ]
