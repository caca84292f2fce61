"""Starts a Python program with faults armed.

    python -m amidiag.soak.faults.launcher --arm NAME --report FILE -- PROGRAM ARGS

What was armed, and what was not because the host has it by itself, is written to FILE as JSON
before the program starts, so that the soak's report can say it in words.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from pathlib import Path

from amidiag.soak.faults import NAMES, accelerator, on_demand, torch_atexit

# The faults import torch before the worker can say how its threads shall wait: idle OpenMP threads that spin beside
# a loader process on the same cores slow inference down several times.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ARM = {
    "torch-atexit-per-loader": torch_atexit.arm,
    "emulated-accelerator": accelerator.arm,
    "loader-on-demand": on_demand.arm,
}


def main() -> None:
    """Arm, report, and become the program."""
    parser = argparse.ArgumentParser(prog="amidiag.soak.faults.launcher")
    parser.add_argument("--arm", action="append", default=[], choices=NAMES)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("program", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    program = [word for i, word in enumerate(options.program) if i or word != "--"]
    done = {name: ARM[name]() for name in options.arm}
    options.report.write_text(json.dumps(done), encoding="utf-8")
    sys.argv = program
    runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    main()
