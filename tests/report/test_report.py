"""The machine-readable ends: JSON envelope and its schema, JUnit, `.env` files."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from jsonschema import Draft202012Validator, ValidationError

from amidiag.diagnosis.envfile import write_mitigations
from amidiag.diagnosis.sentinel_pipes import MITIGATIONS
from amidiag.model import Envelope, Finding, Mitigation, PeerCounts, Rate, SeriesReport
from amidiag.report.as_json import envelope_text, plain
from amidiag.report.json_schema import schema
from amidiag.report.junit import Case, junit_xml
from amidiag.report.words import duration, size


def _series(rate: float) -> SeriesReport:
    return SeriesReport(
        pid=1,
        resource="fd",
        verdict="leak",
        driver="loaders",
        cycles=60,
        rate=Rate("loaders", rate, 2.0, 2.0),
        upper_bound=None,
        samples_needed=None,
        exhausts=None,
    )


def _envelope(**parts: object) -> Envelope:
    return Envelope(command="x", generated_at="2026-01-01T00:00:00+00:00", host="h", exit_code=0, **parts)  # type: ignore[arg-type]


def test_schema_is_valid_and_an_envelope_satisfies_it() -> None:
    Draft202012Validator.check_schema(schema())
    data = json.loads(envelope_text(_envelope(series=(_series(2.0),))))
    Draft202012Validator(schema()).validate(data)
    assert data["schema"] == "amidiag/1"
    assert next(iter(data)) == "schema"
    data["command"] = "rate"
    with pytest.raises(ValidationError):
        Draft202012Validator(schema()).validate({**data, "data": {"seconds": "long"}})
    data["series"][0]["verdict"] = "perhaps"
    with pytest.raises(ValidationError):
        Draft202012Validator(schema()).validate(data)


def test_what_is_not_a_number_is_null() -> None:
    assert plain([1.0, math.nan, math.inf]) == [1.0, None, None]


def test_peers_keep_the_word_self() -> None:
    assert plain(PeerCounts(self=3))["self"] == 3


def test_junit() -> None:
    text = junit_xml(
        "gate",
        [
            Case("arm", "fd", "failed", "fd leaks <2>", "detail"),
            Case("arm", "threads", "passed", "flat", ""),
            Case("arm", "shm.held", "undecided", "needs 9 more", ""),
        ],
    )
    root = ElementTree.fromstring(text.encode())
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("3", "1", "1")
    assert root.find(".//failure").get("message") == "fd leaks <2>"
    assert root.find(".//skipped") is not None


def test_figures_for_people() -> None:
    assert [size(n) for n in (None, 0, 1023, 1536, 3 * 1024**3)] == [
        "?",
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 GiB",
    ]
    assert [duration(s) for s in (2.0, 59, 120, 7200, 6 * 86400)] == [
        "2.0 s",
        "59 s",
        "2.0 minutes",
        "2.0 hours",
        "6.0 days",
    ]


def _finding(*mitigations: Mitigation) -> Finding:
    return Finding("FD101", "t", "error", 1, "fd.pipe", "c", mitigations=mitigations or MITIGATIONS)


def test_env_file_keeps_other_lines_and_mode(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    name = "AMI_ANTENNA_API_DATALOADER_PERSISTENT_WORKERS"
    path.write_text(f"# my worker\nAMI_ANTENNA_API_AUTH_TOKEN=secret\n{name}=true\n")
    path.chmod(0o600)
    assert write_mitigations(path, [_finding()]) == {name: "false"}
    assert path.read_text() == f"# my worker\nAMI_ANTENNA_API_AUTH_TOKEN=secret\n{name}=false\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [".env"]


def test_env_file_takes_what_was_proven_and_never_what_failed(tmp_path: Path) -> None:
    a = Mitigation("ami", "AMI_A", "1", "w", "c", proven=False)
    b = Mitigation("ami", "AMI_B", "2", "w", "c", proven=None)
    c = Mitigation("ami", "AMI_C", "3", "w", "c", proven=True)
    assert write_mitigations(tmp_path / "new.env", [_finding(a, b, c)]) == {"AMI_C": "3"}
    assert (tmp_path / "new.env").read_text() == "AMI_C=3\n"
    assert write_mitigations(tmp_path / "none.env", [_finding(a)]) == {}
    assert not (tmp_path / "none.env").exists()


def test_env_file_on_a_full_disk_stays_as_it_was(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from amidiag.diagnosis.envfile import write_mitigations\n"
        "from amidiag.diagnosis.sentinel_pipes import MITIGATIONS\n"
        "from amidiag.model import Finding\n"
        "p = Path(sys.argv[1]) / '.env'; p.write_bytes(b'#' * 3000 + b'\\n')\n"
        "(p.parent / 'fill').write_bytes(b'x' * 4096)\n"
        "try:\n    write_mitigations(p, [Finding('F', 't', 'error', 1, 'fd', 'c', mitigations=MITIGATIONS)])\n"
        "except OSError as e:\n    print(e.strerror)\n"
        "print(len(p.read_bytes()), sorted(x.name for x in p.parent.iterdir()))"
    )
    target = tmp_path / "small"
    target.mkdir()
    script = f'mount -t tmpfs -o size=8k none {target} && {sys.executable} -c "$CODE" {target}'
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "CODE": code},
        check=True,
    )
    assert done.stdout.splitlines() == ["No space left on device", "3001 ['.env', 'fill']"]
