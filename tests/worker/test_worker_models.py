"""Pipelines from files of the user: what a manifest may say, what a model may be, and what comes of both."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from model_kit import (
    COLOURS,
    DETECTOR_SIZE,
    MANIFEST,
    SIDE,
    BrightBox,
    Colour,
    exported,
    model_files,
    picture,
    scripted,
    sha256,
    write_pipeline,
)
from worker_rig import Running, ended, traps

from amidiag.soak.antenna import AntennaServer, JobSpec
from worker.pipelines import Detection, Pipeline
from worker.pipelines.manifest import read_manifest
from worker.pipelines.model_file import ModelError
from worker.pipelines.pipeline import build
from worker.pipelines.shelf import chosen_pipelines, pipelines
from worker.settings import SettingsError, WorkerSettings, read

CPU = torch.device("cpu")
BOX = (32, 20, 64, 52)


def settings(models: Path, **changes: object) -> WorkerSettings:
    variables = {"AMI_MODELS_DIR": str(models)} | {k: str(v) for k, v in changes.items()}
    return read(Path("/dev/null"), variables).settings


def built(manifest: Path, **changes: Any) -> Pipeline:
    return build(read_manifest(manifest), device=CPU, **changes)


def labels(found: list[Detection]) -> list[tuple[str, bool]]:
    (only,) = found
    return [(c.label, c.terminal) for c in only.classifications]


def problems(models: Path) -> list[str]:
    with pytest.raises(SettingsError) as e:
        pipelines(settings(models))
    return str(e.value).splitlines()


@pytest.mark.parametrize("suffix", ["pt", "pt2"], ids=["TorchScript", "torch.export"])
@pytest.mark.parametrize("batch_size", [1, 2, 20])
def test_a_pipeline_of_model_files_finds_and_names(tmp_path: Path, suffix: str, batch_size: int) -> None:
    manifest = write_pipeline(tmp_path, change=lambda text: text.replace('.pt"', f'.{suffix}"'))
    pipeline = built(manifest, localization_batch_size=batch_size, classification_batch_size=batch_size)
    # The input of the detector is 48 x 64: half the size of the first kind, and of the second the height decides.
    images = [
        picture(0, BOX),
        picture(1, BOX),
        picture(2, (32, 20, 64, 52), (96, 100)),
        picture(0, (0, 0, 0, 0)),
    ]
    found = pipeline.process(images)
    assert [labels(f)[0] for f in found[:3]] == [(colour, True) for colour in COLOURS]
    assert found[3] == []
    for detections in found[:3]:
        assert detections[0].bbox == pytest.approx(BOX, abs=2.1)
        assert detections[0].score == pytest.approx(0.9)
        assert detections[0].algorithm.key == "bright_box"


def test_scaling_is_what_the_manifest_says() -> None:
    range_of, normal = (
        read_manifest_scaling("range = [-1, 1]"),
        read_manifest_scaling("mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]"),
    )
    assert range_of.mean == pytest.approx(normal.mean)
    assert range_of.std == pytest.approx(normal.std)
    assert range_of.mean == pytest.approx((127.5,) * 3)


def read_manifest_scaling(lines: str) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        change = MANIFEST.replace("range = [0, 1]", lines)
        manifest = write_pipeline(Path(folder), change=lambda _: change)
        file = read_manifest(manifest).detector.file
        assert file is not None
        return file.scaling


FINER = """
[[classifier]]
key = "red_kind"
name = "Kind of red"
file = "colour.pt2"
labels = "kinds.txt"
input_size = 16
range = [0, 1]
follows = "red"
threshold = 0.9

[[classifier]]
key = "light_kind"
name = "Kind of light red"
file = "colour.pt2"
labels = ["a", "b", "c"]
input_size = 16
range = [0, 255]
follows = "light"
"""


def test_a_finer_classifier_names_what_has_the_label_and_counts_from_its_threshold(tmp_path: Path) -> None:
    manifest = write_pipeline(tmp_path, change=lambda text: text + FINER, kinds__txt=b"light\ndark\n\nodd\n")
    red, green = picture(0, BOX), picture(1, BOX)
    found = built(manifest).process([red, green])
    assert labels(found[0]) == [("red", False), ("light", False), ("a", True)]
    assert labels(found[1]) == [("green", True)]
    unsure = MANIFEST + FINER.replace("threshold = 0.9", "threshold = 1.0")
    manifest.write_text(unsure, encoding="utf-8")
    assert labels(built(manifest).process([red])[0]) == [("red", True), ("light", False)]


def test_built_in_networks_may_be_used(tmp_path: Path) -> None:
    text = (
        'slug = "mixed"\nname = "Mixed"\n[detector]\nbuiltin = "trap_sheet_detector"\n'
        '[[classifier]]\nbuiltin = "moth_binary_classifier"\n'
        + FINER.partition("\n\n[[")[0].replace('"red"', '"moth"').replace('"kinds.txt"', '["a", "b", "c"]')
    )
    spec = read_manifest(write_pipeline(tmp_path, change=lambda _: text))
    assert [a.key for a in spec.algorithms] == ["trap_sheet_detector", "moth_binary_classifier", "red_kind"]
    assert build(spec, device=CPU).process([picture(0, BOX)]) is not None


def changed(old: str, new: str) -> Callable[[str], str]:
    assert old in MANIFEST
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('slug = "colours"', 'slug = "Colours!"', "1: slug: must be lower-case letters, digits"),
        ('slug = "colours"\n', "", "1: slug: is missing"),
        ('name = "Colours"', "name = 3", "2: name: must be text that is not empty, not 3"),
        ("threshold = 0.5", "threshold = 1.5", "11: detector.threshold: must be a number from 0 to 1, not 1.5"),
        ("threshold = 0.5", "treshold = 0.5", "11: detector.treshold: unknown key; did you mean threshold?"),
        ("input_size = [48, 64]", "input_size = [48]", "9: detector.input_size: must be [height, width]"),
        ("range = [0, 1]", "range = [1, 0]", "10: detector.range: must rise"),
        ("range = [0, 1]\n", "", "5: detector.range: the normalisation is needed"),
        ("std = [1.0, 1.0, 1.0]", "std = [1.0, 0.0, 1.0]", "20: classifier.std: must be three numbers > 0"),
        ("std = [1.0, 1.0, 1.0]", "", "13: classifier.range: the normalisation is needed"),
        ('"green", "blue"]', '"red", "blue"]', "17: classifier.labels: the label 'red' comes twice"),
        ('["red", "green", "blue"]', '"no.txt"', "17: classifier.labels: the file no.txt cannot be read: No such"),
        ('["red", "green", "blue"]', "[]", "17: classifier.labels: must not be empty"),
        ('file = "box.pt"', 'file = "none.pt"', "8: detector.file: there is no file"),
        ('file = "box.pt"', 'file = "box.pt"\nsha256 = "12"', "9: detector.sha256: must be 64 hexadecimal"),
        ('key = "bright_box"', 'key = "colour"', "14: classifier.key: 'colour' comes twice"),
        ("input_size = 16", 'input_size = 16\nfollows = "red"', "19: classifier.follows: the first classifier"),
        ("input_size = 16", "input_size = 16\nthreshold = 0.3", "19: classifier.threshold: has no use in the first"),
        ("[[classifier]]", "[[classifiers]]", "4: classifiers: unknown key; did you mean classifier?"),
        ("[[classifier]]", "[classifier]", "13: classifier: must be one or more tables"),
        ('key = "bright_box"', 'builtin = "yolo"', "6: detector.builtin: must be trap_sheet_detector, not 'yolo'"),
        ("[detector]", "[detector", "not valid: Expected ']'"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_manifest_is_told_with_file_line_and_key(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    manifest = write_pipeline(tmp_path, change=changed(old, new))
    lines = problems(tmp_path)
    wanted = [line for line in lines if said.rsplit(":", maxsplit=1)[-1].strip() in line]
    assert wanted, lines
    assert wanted[0].startswith(str(manifest))
    if said[0].isdigit() and not said.startswith("4: classifiers"):
        assert wanted[0].startswith(f"{manifest}:{said}"), lines


def test_a_second_classifier_is_named_by_its_own_line(tmp_path: Path) -> None:
    finer = FINER.replace('labels = "kinds.txt"', 'labels = ["light", "dark", "odd"]')
    manifest = write_pipeline(tmp_path, change=lambda text: text + finer)
    text = manifest.read_text()
    for old, new, said in [
        (
            'follows = "light"',
            'follows = "heavy"',
            "no earlier classifier has the label 'heavy'; labels: red, green",
        ),
        ('follows = "light"', 'follows = "red"', "another classifier follows the label 'red' already"),
        ('follows = "light"\n', "", "is missing: only the first classifier names every crop"),
    ]:
        manifest.write_text(text.replace(old, new), encoding="utf-8")
        header = text[: text.rindex("[[classifier]]")].count("\n") + 1
        line = text[: text.rindex("follows")].count("\n") + 1 if new else header
        (problem,) = problems(tmp_path)
        assert problem.startswith(f"{manifest}:{line}: classifier.follows: {said}")


def test_every_mistake_in_every_manifest_is_told_at_once(tmp_path: Path) -> None:
    write_pipeline(tmp_path, "one", changed('name = "Colours"', "name = 3"))
    write_pipeline(tmp_path, "two", changed("range = [0, 1]", "range = 1\nwidth = 3"))
    (tmp_path / "three").mkdir()
    (tmp_path / ".git").mkdir()
    assert sorted(line.split(": ")[1] for line in problems(tmp_path)) == [
        "detector.range", "detector.width", "file", "name"
    ]  # fmt: skip


def test_slugs_and_keys_that_are_taken_are_refused(tmp_path: Path) -> None:
    write_pipeline(tmp_path, "a")
    manifest = write_pipeline(tmp_path, "b")
    (taken,) = problems(tmp_path)
    assert taken == f"{manifest}:1: slug: 'colours' is taken by {tmp_path / 'a' / 'manifest.toml'}"
    text = MANIFEST.replace('slug = "colours"', 'slug = "moth_binary"')
    manifest.write_text(text.replace('["red", "green"', '["green", "red"'), encoding="utf-8")
    taken, differs = problems(tmp_path)
    assert "'moth_binary' is taken by a built-in pipeline" in taken
    assert "its algorithm 'colour' differs from another pipeline's of that key" in differs


def test_a_directory_that_cannot_be_used_is_one_problem(tmp_path: Path) -> None:
    for directory, said in [(tmp_path / "none", "No such file"), (tmp_path, "there is none in it")]:
        (line,) = problems(directory)
        assert line.startswith(f"AMI_MODELS_DIR={directory} (")
        assert said in line


def test_the_users_pipelines_are_chosen_as_the_built_in_ones_are(tmp_path: Path) -> None:
    write_pipeline(tmp_path)
    everything = ["moth_binary", "trap_species", "colours"]
    assert list(chosen_pipelines(settings(tmp_path))) == everything
    assert list(chosen_pipelines(settings(tmp_path, AMI_PIPELINES="colours"))) == ["colours"]
    with pytest.raises(SettingsError, match="moth_binary, trap_species, colours"):
        chosen_pipelines(settings(tmp_path, AMI_PIPELINES="colour"))


def no_model(kind: str) -> bytes:
    out = BytesIO()
    if kind == "checkpoint":
        torch.save(Colour().state_dict(), out)
    elif kind == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("a/readme", "nothing")
    return out.getvalue() if kind != "cut" else model_files()["colour.pt2"][:2000]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lambda: no_model("checkpoint"), "a checkpoint of torch.save, weights without their program"),
        (lambda: no_model("zip"), "neither TorchScript nor torch.export"),
        (lambda: b"\x80\x02 a pickle, perhaps", "not a zip file"),
        (lambda: no_model("cut"), "not a zip file"),
        (lambda: scripted(Colour(classes=2)), "its output for 1 crops is (1, 2), and must be (1, 3): a logit for"),
        (lambda: exported(Colour(classes=4), (SIDE, SIDE)), "(1, 4), and must be (1, 3)"),
        (lambda: model_files()["box.pt"], "its output for 1 crops is (1, 1, 5), and must be (1, 3)"),
        (lambda: exported(Colour(), (SIDE, SIDE), batch=5), "takes no input of (N, 3, 16, 16), neither with N = 1"),
        (lambda: exported(Colour(), (SIDE, SIDE + 8)), "takes no input of (N, 3, 16, 16)"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_such_model_is_refused_when_it_is_loaded(
    tmp_path: Path, data: Callable[[], bytes], said: str
) -> None:
    manifest = write_pipeline(tmp_path, colour__pt=data())
    with pytest.raises(ModelError) as e:
        built(manifest)
    assert str(e.value).startswith(f"{manifest.parent / 'colour.pt'}: ")
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_a_detector_that_gives_something_else_is_refused(tmp_path: Path) -> None:
    manifest = write_pipeline(tmp_path, box__pt=scripted(Colour()))
    with pytest.raises(ModelError, match=r"is \(1, 3\), and must be \(1, K, 5\): x1, y1, x2, y2 in pixels"):
        built(manifest)


@pytest.mark.parametrize(("batch", "least"), [(1, 1), (None, 2), (None, 1)])
def test_models_for_one_input_or_for_two_and_more_give_the_same(
    tmp_path: Path, batch: int | None, least: int
) -> None:
    box = exported(BrightBox(), DETECTOR_SIZE, batch, least)
    colour = exported(Colour(), (SIDE, SIDE), batch, least)
    pipeline = built(write_pipeline(tmp_path, box__pt=box, colour__pt=colour))
    for count in (1, 2, 3, 9):
        found = pipeline.process([picture(i % 3, BOX) for i in range(count)])
        assert [labels(f) for f in found] == [[(COLOURS[i % 3], True)] for i in range(count)]


def test_the_sum_of_a_file_is_checked(tmp_path: Path) -> None:
    right = f'file = "colour.pt"\nsha256 = "{sha256("colour.pt").upper()}"'
    manifest = write_pipeline(tmp_path, change=changed('file = "colour.pt"', right))
    built(manifest)
    (manifest.parent / "colour.pt").write_bytes(scripted(Colour(weight=9.0)))
    with pytest.raises(
        ModelError, match=f"its sha256 is .*, and not {sha256('colour.pt')} as in its manifest"
    ):
        built(manifest)


class Evil:
    """What a stranger may put into a pickle."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("where", ["sample_inputs", "opaque"])
def test_a_pickle_in_an_exported_program_is_not_run(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.export.load itself runs it (seen with 2.13): so this must be our doing."""
    proof = tmp_path / "was run"
    # Its own message about this is malformed and prints a traceback.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    evil = BytesIO()
    torch.save((Evil(proof),), evil)
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(model_files()["colour.pt2"])) as good, zipfile.ZipFile(out, "w") as bad:
        for name in good.namelist():
            data = good.read(name)
            if where == "sample_inputs" and name.endswith("/sample_inputs/model.pt"):
                data = evil.getvalue()
            bad.writestr(name, data)
        if where == "opaque":
            bad.writestr(f"{name.partition('/')[0]}/data/constants/opaque_obj_0", pickle.dumps(Evil(proof)))
    if where == "sample_inputs":
        with suppress(Exception):
            torch.export.load(BytesIO(out.getvalue()))
        assert proof.exists(), "torch no longer does it"
        proof.unlink()
    with pytest.raises(ModelError, match=r"cannot be loaded|pickled objects"):
        built(write_pipeline(tmp_path, colour__pt=out.getvalue()))
    assert not proof.exists()


Start = Callable[..., Running]


def test_a_worker_works_with_a_users_pipeline(server: AntennaServer, start: Start, tmp_path: Path) -> None:
    write_pipeline(tmp_path / "models")
    job_id = server.add_job(JobSpec(pipeline="colours", images=traps(3)))
    code, _, err = ended(
        start("run", "--once", server=server, AMI_MODELS_DIR=tmp_path / "models", AMI_PIPELINES="colours")
    )
    assert (code, server.state().results) == (0, 3), err
    for answer in server.answers(job_id):
        assert answer.result is not None
        assert {d["algorithm"]["key"] for d in answer.result["detections"]} == {"bright_box"}


def test_a_broken_model_ends_with_78_before_a_task_is_taken(
    server: AntennaServer, start: Start, tmp_path: Path
) -> None:
    manifest = write_pipeline(tmp_path / "models", change=changed('box.pt"', 'colour.pt"'))
    server.add_job(JobSpec(pipeline="colours", images=traps(3)))
    code, _, err = ended(start("run", "--once", server=server, AMI_MODELS_DIR=tmp_path / "models"))
    (line,) = [line for line in err.splitlines() if " INFO " not in line]
    assert (code, server.state().reserved) == (78, 0)
    assert f"bad model file: {manifest.parent / 'colour.pt'}: its output for 1 images is (1, 3)" in line


def test_specs_are_data(tmp_path: Path) -> None:
    """Read twice, the same: what `register` sends does not depend on the run."""
    manifest = write_pipeline(tmp_path)
    first, second = read_manifest(manifest), read_manifest(manifest)
    assert first == second
    assert replace(first, slug="other").to_api() | {"slug": "colours"} == second.to_api()
