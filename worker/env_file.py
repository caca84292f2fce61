"""Putting settings into an `.env` file: through python-dotenv, and never half."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

MODE = 0o600


def write(path: Path, settings: Mapping[str, str]) -> None:
    """Set variables in the file, keeping its other lines. It is replaced in one step and keeps its mode.

    A symlink stays one. A new file is for its owner alone, as secrets will follow.

    Raises:
        OSError: the file cannot be read or its directory not be written to; it is as it was.
        UnicodeDecodeError: the file is not UTF-8.
    """
    from dotenv import set_key

    target = path.resolve()
    # In a private directory beside it: python-dotenv writes a file of its own there, and a rename must not
    # leave the file system.
    with tempfile.TemporaryDirectory(prefix=".ami-env-", dir=target.parent) as private:
        scratch = Path(private, "env")
        scratch.touch(MODE)
        with suppress(FileNotFoundError):
            shutil.copyfile(target, scratch)
            shutil.copymode(target, scratch)
            _keep_owner(target, scratch)
        scratch.read_text("utf-8")
        for name, value in settings.items():
            set_key(scratch, name, value, quote_mode="auto" if " " in value else "never")
        _to_disk(scratch)
        scratch.replace(target)


def _keep_owner(target: Path, scratch: Path) -> None:
    status = target.stat()
    if (status.st_uid, status.st_gid) != (scratch.stat().st_uid, scratch.stat().st_gid):
        os.chown(scratch, status.st_uid, status.st_gid)


def _to_disk(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
