"""Faults that the soak arms in a worker that it starts itself. A worker started by hand cannot have one."""

NAMES = ("torch-atexit-per-loader", "emulated-accelerator", "loader-on-demand")
