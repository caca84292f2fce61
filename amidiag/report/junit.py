"""JUnit XML, as CI systems read it: one test case per checked resource."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

Outcome = Literal["passed", "failed", "undecided"]


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
    """The XML text. Undecided cases are `skipped`: CI systems show them apart from passes and failures."""
    cases = list(cases)
    attributes = {
        "name": name,
        "tests": str(len(cases)),
        "failures": str(sum(c.outcome == "failed" for c in cases)),
        "skipped": str(sum(c.outcome == "undecided" for c in cases)),
    }
    root = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(root, "testsuite", {**attributes, "errors": "0"})
    for case in cases:
        element = ElementTree.SubElement(
            suite, "testcase", classname=f"{name}.{case.suite}", name=case.name, time=f"{case.seconds:.3f}"
        )
        if case.outcome == "failed":
            ElementTree.SubElement(element, "failure", message=case.message).text = case.detail
        elif case.outcome == "undecided":
            ElementTree.SubElement(element, "skipped", message=case.message)
        else:
            ElementTree.SubElement(element, "system-out").text = case.message
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
