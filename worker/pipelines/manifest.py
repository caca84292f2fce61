"""Reading the manifest of a user's pipeline: every mistake is one line that names file, line and key."""

from __future__ import annotations

import difflib
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.pipelines.catalogue import BINARY, DETECTOR, SPECIES
from worker.pipelines.detection import Algorithm
from worker.pipelines.spec import DetectorSpec, Follows, ModelFile, PipelineSpec, Scaling, StageSpec
from worker.pipelines.toml_lines import line_of
from worker.settings import Problem, SettingsError

MANIFEST = "manifest.toml"
BUILT_IN_CLASSIFIERS = {algorithm.key: algorithm for algorithm in (BINARY, SPECIES)}

Table = TypeVar("Table", bound=BaseModel)
Place = tuple[str | int, ...]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]
Side = Annotated[int, Field(ge=8, le=8192)]


def _key(default: Any, allowed: str, **limits: Any) -> Any:
    return Field(default, description=allowed, **limits)


def _must(allowed: str, **limits: Any) -> Any:
    return Field(description=allowed, **limits)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Manifest(_Table):
    slug: str = _must("lower-case letters, digits, - and _", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    name: Text = _must("text that is not empty")
    description: str = _key("", "text")
    version: int = _key(1, "a whole number ≥ 1", ge=1)
    detector: dict[str, Any] = _must("a table [detector]")
    classifier: list[dict[str, Any]] = _must("one or more tables [[classifier]]", min_length=1)


class _Network(_Table):
    file: Text = _must("the name of a file, from the folder of the manifest")
    sha256: str | None = _key(None, "64 hexadecimal digits", pattern=r"^[0-9a-fA-F]{64}$")
    key: str = _must("letters, digits, - and _", pattern=r"^[A-Za-z0-9_-]+$")
    name: Text = _must("text that is not empty")
    description: str = _key("", "text")
    version: int = _key(1, "a whole number ≥ 1", ge=1)
    mean: list[float] | None = _key(None, "three numbers", min_length=3, max_length=3)
    std: list[Positive] | None = _key(None, "three numbers > 0", min_length=3, max_length=3)
    range: list[float] | None = _key(None, "two numbers, as [0, 1]", min_length=2, max_length=2)
    threshold: Share | None = _key(None, "a number from 0 to 1")


class _Detector(_Network):
    input_size: list[Side] = _must("[height, width], each from 8 to 8192 pixels", min_length=2, max_length=2)


class _Classifier(_Network):
    input_size: Side = _must("one number, the side of its square input, from 8 to 8192 pixels")
    labels: list[Text] | Text = _must("a list of labels, or the name of a file with one label per line")
    follows: Text | None = _key(None, "a label of an earlier classifier")


class _BuiltInDetector(_Table):
    builtin: Literal["trap_sheet_detector"] = _must(f"{DETECTOR.key}")


class _BuiltInClassifier(_Table):
    builtin: Literal["moth_binary_classifier", "trap_species_classifier"] = _must(
        f"one of {', '.join(BUILT_IN_CLASSIFIERS)}"
    )
    threshold: Share | None = _key(None, "a number from 0 to 1")
    follows: Text | None = _key(None, "a label of an earlier classifier")


@dataclass(frozen=True, slots=True)
class ManifestProblem(Problem):
    """A mistake in a manifest. `source` is its file and line, `setting` the key."""

    def __str__(self) -> str:
        return f"{self.source}: {self.setting}: {self.allowed}"


def read_manifest(path: Path) -> PipelineSpec:
    """The pipeline that a manifest describes. Its model files are there; they are not opened.

    Raises:
        SettingsError: the file cannot be read, is no TOML, or is wrong; one problem for each mistake.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise SettingsError([ManifestProblem("TOML", None, f"not valid: {e}", str(path))]) from None
    except OSError as e:
        reason = f"cannot be read: {e.strerror}"
        raise SettingsError([ManifestProblem("file", None, reason, str(path))]) from None
    reader = _Reader(path, text)
    spec = reader.pipeline(data)
    if spec is None or reader.problems:
        raise SettingsError(reader.problems)
    return spec


def slug_problem(spec: PipelineSpec, what: str) -> ManifestProblem:
    """A problem with the slug of a pipeline of the user."""
    assert spec.manifest is not None
    reader = _Reader(spec.manifest, spec.manifest.read_text(encoding="utf-8"))
    reader.problem(("slug",), what)
    return reader.problems[0]


class _Reader:
    """Collects what is wrong in one manifest while it is turned into a pipeline."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._text = text
        self.problems: list[ManifestProblem] = []

    def problem(self, place: Place, what: str) -> None:
        name = ".".join(str(part) for part in place if isinstance(part, str))
        at = f"{self._path}:{line_of(self._text, place)}"
        self.problems.append(ManifestProblem(name, None, what, at))

    def pipeline(self, data: dict[str, Any]) -> PipelineSpec | None:
        head = self._table(_Manifest, data, ())
        if head is None:
            return None
        detector = self._detector(head.detector)
        stages: list[StageSpec] = []
        for number, table in enumerate(head.classifier):
            stage = self._stage(table, ("classifier", number), stages)
            if stage is None:
                # What follows it cannot be judged.
                return None
            stages.append(stage)
        if detector is None:
            return None
        self._keys(detector, stages)
        return PipelineSpec(
            head.slug, head.name, head.description, detector, tuple(stages), head.version, self._path
        )

    def _detector(self, data: dict[str, Any]) -> DetectorSpec | None:
        place: Place = ("detector",)
        if "builtin" in data:
            return DetectorSpec(DETECTOR) if self._table(_BuiltInDetector, data, place) else None
        table = self._table(_Detector, data, place)
        if table is None:
            return None
        file = self._file(table, place, table.input_size[0], table.input_size[1])
        if file is None:
            return None
        algorithm = Algorithm(table.name, table.key, "localization", table.description, version=table.version)
        return DetectorSpec(algorithm, file, 0.5 if table.threshold is None else table.threshold)

    def _stage(self, data: dict[str, Any], place: Place, before: Sequence[StageSpec]) -> StageSpec | None:
        table: _BuiltInClassifier | _Classifier | None
        file: ModelFile | None = None
        if "builtin" in data:
            table = self._table(_BuiltInClassifier, data, place)
            if table is None:
                return None
            algorithm = BUILT_IN_CLASSIFIERS[table.builtin]
        else:
            table = self._table(_Classifier, data, place)
            if table is None:
                return None
            labels = self._labels(table.labels, (*place, "labels"))
            file = self._file(table, place, table.input_size, table.input_size)
            if labels is None or file is None:
                return None
            algorithm = Algorithm(
                table.name, table.key, "classification", table.description, labels, table.version
            )
        follows = self._follows(table.follows, (*place, "follows"), before)
        if not before and table.threshold is not None:
            self.problem((*place, "threshold"), "has no use in the first classifier: its label always counts")
        return StageSpec(algorithm, file, follows, table.threshold)

    def _follows(self, label: str | None, place: Place, before: Sequence[StageSpec]) -> Follows | None:
        if not before:
            if label is not None:
                self.problem(place, "the first classifier is the coarse one and follows none")
            return None
        if label is None:
            self.problem(place, "is missing: only the first classifier names every crop; name a label of it")
            return None
        stages = [number for number, stage in enumerate(before) if label in stage.algorithm.labels]
        if len(stages) != 1:
            known = ", ".join(label for stage in before for label in stage.algorithm.labels[:8])
            which = "several earlier classifiers have" if stages else "no earlier classifier has"
            self.problem(place, f"{which} the label {label!r}; labels: {known}")
            return None
        follows = Follows(stages[0], label)
        if any(stage.follows == follows for stage in before):
            self.problem(place, f"another classifier follows the label {label!r} already")
        return follows

    def _labels(self, written: list[str] | str, place: Place) -> tuple[str, ...] | None:
        labels = written
        if isinstance(labels, str):
            try:
                text = (self._path.parent / labels).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as e:
                reason = e.strerror if isinstance(e, OSError) else "it is not UTF-8"
                self.problem(place, f"the file {written} cannot be read: {reason}")
                return None
            labels = [line.strip() for line in text.splitlines() if line.strip()]
        twice = next((label for label, times in Counter(labels).items() if times > 1), None)
        if not labels or twice is not None:
            self.problem(place, "must not be empty" if twice is None else f"the label {twice!r} comes twice")
            return None
        return tuple(labels)

    def _file(self, table: _Network, place: Place, height: int, width: int) -> ModelFile | None:
        scaling = self._scaling(table, place)
        path = self._path.parent / table.file
        if not path.is_file():
            self.problem((*place, "file"), f"there is no file {path}")
            return None
        sha256 = table.sha256.lower() if table.sha256 else None
        return ModelFile(path, sha256, height, width, scaling) if scaling else None

    def _scaling(self, table: _Network, place: Place) -> Scaling | None:
        if table.range is not None and table.mean is None and table.std is None:
            low, high = table.range
            if low < high:
                return Scaling.to_range(low, high)
            self.problem((*place, "range"), f"must rise, not {table.range!r}")
            return None
        if table.range is None and table.mean is not None and table.std is not None:
            return Scaling.to_unit_normal(table.mean, table.std)
        self.problem(
            (*place, "range"),
            "the normalisation is needed: either range, as [0, 1], or mean and std of values 0 to 1",
        )
        return None

    def _keys(self, detector: DetectorSpec, stages: Sequence[StageSpec]) -> None:
        seen = {detector.algorithm.key}
        for number, stage in enumerate(stages):
            if stage.algorithm.key in seen:
                place: Place = ("classifier", number, "builtin" if stage.file is None else "key")
                self.problem(place, f"{stage.algorithm.key!r} comes twice")
            seen.add(stage.algorithm.key)

    def _table(self, kind: type[Table], data: dict[str, Any], place: Place) -> Table | None:
        try:
            return kind.model_validate(data)
        except ValidationError as e:
            known = kind.model_fields
            told: set[str] = set()
            for one in e.errors(include_url=False):
                key = str(one["loc"][0])
                if key not in told:
                    told.add(key)
                    self.problem((*place, key), _in_words(key, one["type"], one["input"], known))
            return None


def _in_words(key: str, kind: str, value: Any, known: Any) -> str:
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        return f"unknown key; {hint}"
    allowed = known[key].description
    return f"is missing: {allowed}" if kind == "missing" else f"must be {allowed}, not {value!r}"
