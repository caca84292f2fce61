"""Call-site tables as files: read, found by the process that writes them, listed, removed."""

from __future__ import annotations

from amidiag.attach.old_tables import clean, find_dead, list_tables
from amidiag.attach.table_finder import find_tables
from amidiag.attach.trace_region import Frame, Made, Region
from amidiag.attach.trace_source import BadTableError
from amidiag.attach.trace_table import Table, read_table

__all__ = [
    "BadTableError",
    "Frame",
    "Made",
    "Region",
    "Table",
    "clean",
    "find_dead",
    "find_tables",
    "list_tables",
    "read_table",
]
