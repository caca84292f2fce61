"""Flame graphs: what flamegraph.pl and speedscope are given is what they can read."""

import json
import re

from jsonschema import Draft7Validator

from amidiag.model import CallSite
from amidiag.report.flame import collapsed, speedscope

LOADER = "/srv/worker/loader.py:12 build"
LAUNCH = "/usr/lib/python3.11/multiprocessing/popen_fork.py:64 _launch"
SITES = (
    CallSite(398, ("/srv/worker/main.py:3 <module>", LOADER, LAUNCH, "[pipe]")),
    CallSite(2, ("/srv/worker/main.py:3 <module>", "/srv/worker/api.py:7 Client.<locals>.post", "[socket]")),
    CallSite(5, ("[not seen being made]", "[regular]")),
)

# The parts of https://www.speedscope.app/file-format-schema.json that a sampled profile is made of.
SCHEMA = {
    "type": "object",
    "required": ["$schema", "profiles", "shared"],
    "properties": {
        "$schema": {"enum": ["https://www.speedscope.app/file-format-schema.json"]},
        "activeProfileIndex": {"type": "number"},
        "exporter": {"type": "string"},
        "name": {"type": "string"},
        "profiles": {"type": "array", "items": {"$ref": "#/definitions/SampledProfile"}},
        "shared": {
            "type": "object",
            "required": ["frames"],
            "properties": {"frames": {"type": "array", "items": {"$ref": "#/definitions/Frame"}}},
        },
    },
    "definitions": {
        "Frame": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string"},
                "file": {"type": "string"},
                "line": {"type": "number"},
                "col": {"type": "number"},
            },
        },
        "SampledProfile": {
            "type": "object",
            "required": ["endValue", "name", "samples", "startValue", "type", "unit", "weights"],
            "properties": {
                "type": {"enum": ["sampled"]},
                "name": {"type": "string"},
                "unit": {"enum": ["bytes", "microseconds", "milliseconds", "nanoseconds", "none", "seconds"]},
                "startValue": {"type": "number"},
                "endValue": {"type": "number"},
                "samples": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                "weights": {"type": "array", "items": {"type": "number"}},
            },
        },
    },
}


def _read_back(text: str) -> dict[tuple[str, ...], int]:
    """As flamegraph.pl reads: the count is what follows the last space, `;` ends a frame."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(.*)\s+?(\d+(?:\.\d*)?)", line)
        assert match is not None, line
        found[tuple(match[1].split(";"))] = int(match[2])
    return found


def test_collapsed_stacks_begin_at_the_root() -> None:
    assert _read_back(collapsed(SITES)) == {
        (
            "<module> (/srv/worker/main.py:3)",
            "build (/srv/worker/loader.py:12)",
            "_launch (/usr/lib/python3.11/multiprocessing/popen_fork.py:64)",
            "[pipe]",
        ): 398,
        ("<module> (/srv/worker/main.py:3)", "Client.<locals>.post (/srv/worker/api.py:7)", "[socket]"): 2,
        ("[not seen being made]", "[regular]"): 5,
    }
    assert collapsed(()) == ""


def test_equal_stacks_are_one_line() -> None:
    assert (
        collapsed((CallSite(2, (LOADER,)), CallSite(3, (LOADER,)))) == "build (/srv/worker/loader.py:12) 5\n"
    )


def test_a_name_cannot_end_a_frame_or_a_line_early() -> None:
    site = CallSite(4, ("/srv/a;b c.py:1 f", "/srv/two\nlines 7\r.py:2 g", "no frame at all"))
    ((stack, number),) = _read_back(collapsed((site,))).items()
    assert number == 4
    assert stack == ("f (/srv/a:b c.py:1)", "g (/srv/two lines 7 .py:2)", "no frame at all")


def test_speedscope_satisfies_its_schema_and_weighs_by_count() -> None:
    file = json.loads(speedscope(SITES, "PID 4711", "amidiag 0.1.0"))
    Draft7Validator.check_schema(SCHEMA)
    Draft7Validator(SCHEMA).validate(file)
    (profile,) = file["profiles"]
    assert (profile["unit"], profile["weights"], profile["endValue"]) == ("none", [398, 2, 5], 405)
    frames = file["shared"]["frames"]
    assert [frames[i] for i in profile["samples"][0]] == [
        {"name": "<module>", "file": "/srv/worker/main.py", "line": 3},
        {"name": "build", "file": "/srv/worker/loader.py", "line": 12},
        {"name": "_launch", "file": "/usr/lib/python3.11/multiprocessing/popen_fork.py", "line": 64},
        {"name": "[pipe]"},
    ]
    # A frame that two stacks have in common is one frame.
    assert profile["samples"][0][0] == profile["samples"][1][0]
    assert len(frames) == 9 - 1


def test_speedscope_of_nothing_is_valid() -> None:
    Draft7Validator(SCHEMA).validate(json.loads(speedscope((), "PID 1", "amidiag")))
