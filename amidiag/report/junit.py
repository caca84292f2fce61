"""JUnit XML, as CI systems read it: one test case per checked resource."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

Outcome = Literal["passed", "failed", "undecided", "error"]
# All but `Char` of XML 1.0, section 2.2: the colours of a worker's last words, and undecodable bytes, are among them.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Case:
    """One check: where it belongs, what it is called, how it ended and the text that says why."""

    suite: str
    name: str
    outcome: Outcome
    message: str
    detail: str
    seconds: float = 0.0


def junit_xml(name: str, cases: Iterable[Case]) -> str:
    """The XML text. Undecided cases are `skipped`: CI systems show them apart from passes and failures.

    `error` is a check that could not be made. What XML cannot hold is replaced by U+FFFD.
    """
    cases = list(cases)
    attributes = {
        "name": _clean(name),
        "tests": str(len(cases)),
        "failures": str(sum(c.outcome == "failed" for c in cases)),
        "errors": str(sum(c.outcome == "error" for c in cases)),
        "skipped": str(sum(c.outcome == "undecided" for c in cases)),
    }
    root = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(root, "testsuite", attributes)
    for case in cases:
        element = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_clean(f"{name}.{case.suite}"),
            name=_clean(case.name),
            time=f"{case.seconds:.3f}",
        )
        _outcome(element, case)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _outcome(element: ElementTree.Element, case: Case) -> None:
    message, detail = _clean(case.message), _clean(case.detail)
    if case.outcome == "failed":
        ElementTree.SubElement(element, "failure", message=message).text = detail
    elif case.outcome == "error":
        ElementTree.SubElement(element, "error", message=message).text = detail
    elif case.outcome == "undecided":
        ElementTree.SubElement(element, "skipped", message=message)
    else:
        ElementTree.SubElement(element, "system-out").text = message


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
