"""The console script: no collections in one look, few in what may take long, none when the program ends."""

from __future__ import annotations

import gc

# Objects between two collections of the youngest. Python's 700 is for programs that make garbage in rings; here
# it is some 70 collections while modules are imported.
_SELDOM = 50_000


def run() -> None:
    """Run the command and end the program with its exit code."""
    # What click reads may run for days, and enables it. One look ends before there is garbage worth the 8 ms.
    gc.disable()
    gc.set_threshold(_SELDOM, 10, 10)
    from amidiag.cli.main import run as run_command

    try:
        run_command()
    finally:
        # The last collection would go through every function and class.
        gc.freeze()
