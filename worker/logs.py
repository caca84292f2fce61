"""How the worker's log is written: lines of text, or of JSON."""

from __future__ import annotations

import logging
import os
import sys


def to_stderr(level: str, log_format: str = "text") -> None:
    """Write the log of this process to standard error."""
    # Of several workers that write to one place each line says whose it is.
    whose = "[%(process)d] " if "AMIDIAG_PARENT_FD" in os.environ else ""
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format=f"%(asctime)s {whose}%(levelname)-7s %(name)s: %(message)s",
        force=True,
    )
    # torch warns once per loader about pinning without an accelerator: into the log with it, not past it.
    logging.captureWarnings(capture=True)
