"""How many CPUs torch may use, and how it waits for them."""

from __future__ import annotations

import os


def wait_passively() -> None:
    """Let idle OpenMP threads sleep instead of spin. Only of use before torch is imported.

    The CPUs are shared with loader processes and often with a second worker: with two busy neighbours on
    two cores the same 36 images took 0.8 s passively and 4 to 11 s spinning. An operator's choice wins.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def set_torch_threads(loader_processes: int) -> None:
    """Leave a CPU to each loader process; an operator's OMP_NUM_THREADS wins."""
    if "OMP_NUM_THREADS" in os.environ:
        return
    import torch

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - loader_processes))
