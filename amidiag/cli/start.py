"""The console script: few collections while modules are imported, none when the program ends."""

from __future__ import annotations

import gc

# Objects between two collections of the youngest. Python's 700 is for programs that make garbage in rings;
# here it is some 70 collections, and each at the end of the program goes through every function and class.
_SELDOM = 50_000


def run() -> None:
    """Run the command and end the program with its exit code."""
    gc.set_threshold(_SELDOM, 10, 10)
    from amidiag.cli.main import run as run_command

    try:
        run_command()
    finally:
        gc.freeze()
