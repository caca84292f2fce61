"""What the worker tells its supervisor (DESIGN.md, "Exit codes"; numbers of sysexits.h)."""

DRAINED = 0
UNREACHABLE = 69
INTERNAL = 70
RECYCLE = 75
REFUSED = 77
BAD_SETTINGS = 78
