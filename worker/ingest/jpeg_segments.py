"""What a JPEG file is made of: its segments, and what its scans bring of the picture. No pixel is decoded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

APP0, APP1, APP14, SOS = 0xE0, 0xE1, 0xEE, 0xDA
EOI = 0xD9
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2

# In the data of a scan FF is followed by a zero or is a restart marker.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_COEFFICIENTS = 64
# Each scan goes over the whole picture: thousands of them would take hours. Ten are usual.
_MOST_SCANS = 200


@dataclass(frozen=True, slots=True)
class Segment:
    """One marker with what belongs to it: `data[start:end]`, behind the two bytes of its length."""

    marker: int
    start: int
    end: int


def segments(data: bytes) -> Iterator[Segment]:
    """The segments with a length from the start to EOI, scan after scan; ends early where there is no marker."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != EOI:
        if data[at + 1] == 0xFF:
            at += 1
            continue
        segment = Segment(data[at + 1], at + 4, at + 2 + int.from_bytes(data[at + 2 : at + 4]))
        yield segment
        at = segment.end
        if segment.marker == SOS:
            found = _NEXT_MARKER.search(data, at)
            at = found.start() if found else len(data)


def check_scans(data: bytes) -> None:
    """See that the scans bring every component to its last bit, and are no more than a picture needs.

    A progressive file that was cut between two scans, and closed, decodes without a complaint: but coarsely.

    Raises:
        ValueError: they do not.
    """
    to_come: dict[int, list[bool]] = {}
    scans, is_progressive = 0, False
    for segment in segments(data):
        body = data[segment.start : segment.end]
        if segment.marker == PROGRESSIVE or segment.marker in SEQUENTIAL:
            is_progressive = segment.marker == PROGRESSIVE
            to_come = {component: [True] * _COEFFICIENTS for component in body[6::3]}
        elif segment.marker == SOS and len(body) > 4:
            first, last, bits = body[-3:] if is_progressive else (0, _COEFFICIENTS - 1, 0)
            for component in body[1:-3:2]:
                # The lower half byte: how many bits a later scan has to bring.
                to_come.setdefault(component, [])[first : last + 1] = [bits & 0xF != 0] * (last + 1 - first)
            scans += 1
            if scans > _MOST_SCANS:
                raise ValueError(f"more than {_MOST_SCANS} scans")
            if not is_progressive and not any(map(any, to_come.values())):
                # All in one scan, as most are: no need to look for its end.
                return
    if any(map(any, to_come.values())):
        raise ValueError("it ends before its last scan")
