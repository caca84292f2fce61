"""Writing settings into an `.env` file: through python-dotenv, and never half."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from amidiag.diagnosis.whole_file import write_whole
from amidiag.model import Finding


def chosen(findings: Iterable[Finding]) -> dict[str, str]:
    """The `AMI_` settings to write: of each finding the proven one, else the first; never one that did not help."""
    settings: dict[str, str] = {}
    for finding in findings:
        own = [m for m in finding.mitigations if m.dialect == "ami" and m.proven is not False]
        for mitigation in sorted(own, key=lambda m: m.proven is not True)[:1]:
            settings[mitigation.setting] = mitigation.value
    return settings


def write_mitigations(path: Path, findings: Iterable[Finding]) -> dict[str, str]:
    """Put the settings of `findings` into the file, keeping its other lines; returns what was written.

    The file is replaced in one step and keeps owner, group and mode; a symlink stays one
    (`whole_file.write_whole`). A new file is for its owner alone, as secrets will follow.

    Raises:
        OSError: it cannot be read, its directory cannot be written to, the disk is full, or the
            owner cannot be kept; the old file is as it was.
        UnicodeDecodeError: the file is not UTF-8.
    """
    from dotenv import set_key

    settings = chosen(findings)
    if not settings:
        return {}
    # In a private directory: python-dotenv writes beside its file, and leaves that there on a full disk.
    with tempfile.TemporaryDirectory() as private:
        scratch = Path(private, "env")
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(path, scratch)
        for setting, value in settings.items():
            set_key(scratch, setting, value, quote_mode="never")
        text = scratch.read_text("utf-8")
    write_whole(path, text, mode=0o600)
    return settings
