"""Writing settings into an `.env` file: through python-dotenv, and never half."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

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

    The new file replaces the old one in one step; its mode is kept.

    Raises:
        OSError: the directory cannot be written to, or the disk is full; the old file is as it was.
    """
    from dotenv import set_key

    settings = chosen(findings)
    if not settings:
        return {}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    scratch = Path(name)
    try:
        if path.exists():
            shutil.copyfile(path, scratch)
            shutil.copymode(path, scratch)
        for setting, value in settings.items():
            set_key(scratch, setting, value, quote_mode="never")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return settings
