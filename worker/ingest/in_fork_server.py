"""Imported by the fork server, which preloads it, and by nobody else: it ends when the worker does, even if stopped.

By itself it lives as long as one of its children does, and a child that is stopped lives for ever. Its children ask the
same of the kernel (`loader_process`), so the death of the worker goes down the line.
"""

from worker.ingest.parent_death import die_with_parent

die_with_parent()
