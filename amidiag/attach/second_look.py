"""Whether what nobody saw being made is still there, or was only passing when it was listed."""

from __future__ import annotations

from collections.abc import Sequence

from amidiag.attach.traced_process import Member
from amidiag.procfs.errors import NoPermission, ProcessGone
from amidiag.procfs.open_files import OpenFile, list_fds, list_mapped


def closed_meanwhile(member: Member, unmatched: Sequence[OpenFile]) -> set[OpenFile]:
    """What was not seen being made, and is not there any more at a second look: its record is gone already."""
    if not unmatched:
        return set()
    try:
        now = list_fds(member.pid, member.stat.name, [file.fd for file in unmatched if file.fd is not None])
        if any(file.fd is None for file in unmatched):
            now += list_mapped(member.pid, (), member.stat.name)
    except (ProcessGone, NoPermission):
        return set()  # Ended, after it was found to be there: what was seen was true then.
    there = {_name(file) for file in now}
    return {file for file in unmatched if _name(file) not in there}


def _name(file: OpenFile) -> tuple[int | None, str, int | None, int | None]:
    # Not the address: a segment that lost its first mapping is still there.
    return file.fd, file.type, file.device, file.inode
