"""Figures as people read them."""

from __future__ import annotations

_SECONDS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0))


def size(n: float | None) -> str:
    """Bytes with a binary unit; `?` where unknown."""
    if n is None:
        return "?"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024 or unit == "GiB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """A time span in its largest fitting unit."""
    for unit, length in _SECONDS:
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def count(n: float | None) -> str:
    """A number with thousands separated; `?` where unknown."""
    return "?" if n is None else f"{n:,.0f}"


def amount(value: float | None, resource: str) -> str:
    """A value of a resource in its unit."""
    return size(value) if resource.startswith(("memory", "shm")) else count(value)


def rate(value: float, resource: str) -> str:
    """A growth in the resource's unit, with a sign where it is not zero."""
    if resource.startswith(("memory", "shm")):
        return size(value)
    return f"{value:.2f}" if abs(value) >= 0.005 or value == 0 else f"{value:.1e}"
