"""Checks the bodies and queries of requests: what the real server's schemas refuse is refused here.

Which fields may be missing follows the public Antenna server's schemas; unknown fields are let
through, as there. Every function raises InvalidError, which names the field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NoReturn
from urllib.parse import parse_qs

from amidiag.soak.antenna.words import Result

_Check = Callable[[Any, str], object]


class InvalidError(ValueError):
    """A request that the server answers with 400; the text names the field and what is wanted."""


class PostedResult:
    """One entry of `POST /jobs/{id}/result/`."""

    __slots__ = ("reply_subject", "result")

    def __init__(self, reply_subject: str, result: Result) -> None:
        self.reply_subject = reply_subject
        self.result = result


def parse_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object; NaN and Infinity are refused, as by the real server's strict parser."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"body: not JSON: {error}") from error
    if not isinstance(value, dict):
        _refuse("body", "an object", value)
    return value


def batch_size(body: bytes) -> int:
    """The number of tasks asked for, over 0."""
    value = _field(parse_object(body), "batch_size", "")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        _refuse("batch_size", "a whole number over 0", value)
    return int(value)


def posted_results(body: bytes) -> list[PostedResult]:
    """The results posted for a job; one bad entry refuses the whole body."""
    posted = []
    for path, entry in _entries(parse_object(body), "results", ""):
        subject = _field(entry, "reply_subject", path)
        _text(subject, f"{path}.reply_subject")
        result = _field(entry, "result", path)
        _check_result(result, f"{path}.result")
        posted.append(PostedResult(subject, result))
    return posted


def registration(body: bytes) -> tuple[str, dict[str, dict[str, Any]]]:
    """The processing service's name and its pipelines by slug."""
    value = parse_object(body)
    name = _field(value, "processing_service_name", "")
    _text(name, "processing_service_name")
    pipelines: dict[str, dict[str, Any]] = {}
    for path, entry in _entries(value, "pipelines", ""):
        _check_fields(entry, path, {"name": _text, "slug": _text})
        _check_fields(entry, path, {"version": _number, "description": _string}, optional=True)
        if "algorithms" in entry:
            for where, algorithm in _entries(entry, "algorithms", path):
                _check_fields(algorithm, where, _ALGORITHM)
        pipelines[entry["slug"]] = entry
    return name, pipelines


class JobsQuery:
    """The query of `GET /jobs`. `limit` None means all; `pipelines` None means any."""

    __slots__ = ("async_api", "ids_only", "incomplete_only", "limit", "pipelines")

    def __init__(self, query: str) -> None:
        values = {key: value[-1] for key, value in parse_qs(query, keep_blank_values=True).items()}
        self.ids_only = _flag(values, "ids_only")
        self.incomplete_only = _flag(values, "incomplete_only")
        slugs = values.get("pipeline__slug__in", "")
        self.pipelines = frozenset(slugs.split(",")) if slugs else None
        mode = values.get("dispatch_mode", "async_api")
        if mode not in ("async_api", "sync_api", "internal"):
            raise InvalidError(f"dispatch_mode: async_api, sync_api or internal is wanted, not {mode!r}")
        self.async_api = mode == "async_api"
        self.limit = self._limit(values.get("limit"))

    def _limit(self, text: str | None) -> int | None:
        if text is None:
            return 1 if self.ids_only else None
        if not (text.isascii() and text.isdigit() and int(text) > 0):
            raise InvalidError(f"limit: a whole number over 0 is wanted, not {text!r}")
        return int(text)


def _flag(values: Mapping[str, str], name: str) -> bool:
    text = values.get(name, "0").lower()
    if text not in ("0", "1", "true", "false"):
        raise InvalidError(f"{name}: 0, 1, true or false is wanted, not {text!r}")
    return text in ("1", "true")


def _check_result(value: Any, path: str) -> None:
    if not isinstance(value, dict):
        _refuse(path, "an object", value)
    if "error" in value:
        _check_fields(value, path, {"error": _text})
        _check_fields(value, path, {"image_id": _id}, optional=True)
        return
    _check_fields(value, path, {"pipeline": _text, "total_time": _number})
    for where, image in _entries(value, "source_images", path):
        _check_fields(image, where, {"id": _id, "url": _text})
    for where, detection in _entries(value, "detections", path):
        _check_detection(detection, where)


def _check_detection(value: dict[str, Any], path: str) -> None:
    _check_fields(value, path, {"source_image_id": _id, "timestamp": _timestamp})
    _check_fields(_mapping(value, "algorithm", path), f"{path}.algorithm", _ALGORITHM)
    _check_fields(value, path, {"inference_time": _number, "crop_image_url": _string}, optional=True)
    if value.get("bbox") is not None:
        _check_fields(_mapping(value, "bbox", path), f"{path}.bbox", _BOX)
    if "classifications" in value:
        for where, classification in _entries(value, "classifications", path):
            _check_classification(classification, where)


def _check_classification(value: dict[str, Any], path: str) -> None:
    _check_fields(value, path, {"classification": _text, "timestamp": _timestamp})
    _check_fields(_mapping(value, "algorithm", path), f"{path}.algorithm", _ALGORITHM)
    optional: dict[str, _Check] = {
        "labels": _list_of(_string),
        "scores": _list_of(_number),
        "logits": _list_of(_number),
        "inference_time": _number,
        "terminal": _boolean,
    }
    _check_fields(value, path, optional, optional=True)


def _check_fields(
    value: dict[str, Any], path: str, checks: Mapping[str, _Check], *, optional: bool = False
) -> None:
    for name, check in checks.items():
        if optional and value.get(name) is None:
            continue
        check(_field(value, name, path), _join(path, name))


def _field(value: dict[str, Any], name: str, path: str) -> Any:
    try:
        return value[name]
    except KeyError:
        raise InvalidError(f"{_join(path, name)}: is missing") from None


def _mapping(value: dict[str, Any], name: str, path: str) -> dict[str, Any]:
    found = _field(value, name, path)
    if not isinstance(found, dict):
        _refuse(_join(path, name), "an object", found)
    return found


def _entries(value: dict[str, Any], name: str, path: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects of the list in this field, each with its own path."""
    where = _join(path, name)
    found = _field(value, name, path)
    if not isinstance(found, list):
        _refuse(where, "a list", found)
    for index, entry in enumerate(found):
        if not isinstance(entry, dict):
            _refuse(f"{where}[{index}]", "an object", entry)
    return [(f"{where}[{index}]", entry) for index, entry in enumerate(found)]


def _string(value: Any, path: str) -> None:
    if not isinstance(value, str):
        _refuse(path, "text", value)


def _text(value: Any, path: str) -> None:
    if not isinstance(value, str) or not value:
        _refuse(path, "some text", value)


def _id(value: Any, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        _refuse(path, "an id", value)


def _boolean(value: Any, path: str) -> None:
    if not isinstance(value, bool):
        _refuse(path, "true or false", value)


def _number(value: Any, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        _refuse(path, "a number", value)


def _timestamp(value: Any, path: str) -> None:
    _text(value, path)
    try:
        datetime.fromisoformat(value)
    except ValueError:
        _refuse(path, "a time in ISO 8601", value)


def _list_of(check: _Check) -> _Check:
    def check_list(value: Any, path: str) -> None:
        if not isinstance(value, list):
            _refuse(path, "a list", value)
        for index, entry in enumerate(value):
            check(entry, f"{path}[{index}]")

    return check_list


_ALGORITHM: dict[str, _Check] = {"name": _text, "key": _text}
_BOX: dict[str, _Check] = {"x1": _number, "y1": _number, "x2": _number, "y2": _number}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _refuse(path: str, wanted: str, value: Any) -> NoReturn:
    shown = repr(value)
    raise InvalidError(f"{path}: {wanted} is wanted, not {shown if len(shown) <= 60 else shown[:57] + '...'}")


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidError(f"body: {name} is no JSON number")
