"""The score on boxes whose answer is known."""

from __future__ import annotations

from typing import Any

import pytest

from amidiag.soak.traps import PlantedInsect
from amidiag.soak.traps.score import iou, kind_of, score

MOTH = PlantedInsect("moth", "plain_moth", (0.0, 0.0, 10.0, 10.0))
FLY = PlantedInsect("nonmoth", "fly", (100.0, 100.0, 120.0, 110.0))


def found(x1: float, y1: float, x2: float, y2: float, *labels: tuple[str, bool]) -> dict[str, Any]:
    return {
        "bbox": {"x1": x1, "y1": y1, "x2": x2, "y2": y2},
        "classifications": [{"classification": label, "terminal": terminal} for label, terminal in labels],
    }


def test_perfect() -> None:
    result = score(
        [
            (
                [MOTH, FLY],
                [found(100, 100, 120, 110, ("nonmoth", True)), found(0, 0, 10, 10, ("moth", True))],
            )
        ]
    )
    assert (result.precision, result.recall, result.kind_accuracy) == (1.0, 1.0, 1.0)
    assert (result.planted, result.found, result.matched) == (2, 2, 2)


def test_half_overlap_counts_and_less_does_not() -> None:
    # IoU of (0,0,10,10) with (0,0,10,5) is exactly 0.5, with (0,0,10,4.9) it is 0.49.
    assert score([([MOTH], [found(0, 0, 10, 5, ("moth", True))])]).matched == 1
    assert score([([MOTH], [found(0, 0, 10, 4.9, ("moth", True))])]).matched == 0


def test_one_insect_is_matched_once() -> None:
    twice = score([([MOTH], [found(0, 0, 10, 9, ("nonmoth", True)), found(0, 0, 10, 10, ("moth", True))])])
    assert (twice.matched, twice.precision, twice.recall) == (1, 0.5, 1.0)
    assert twice.kind_accuracy == 1.0, "the better box is the match"


def test_over_several_images_counts_add_up() -> None:
    result = score(
        [
            ([MOTH, FLY], [found(0, 0, 10, 10, ("nonmoth", True))]),
            ([], [found(5, 5, 9, 9, ("moth", True))]),
            ([FLY], []),
            ([FLY], [found(100, 100, 120, 110, ("nonmoth", True))]),
        ]
    )
    assert (result.planted, result.found, result.matched) == (4, 3, 2)
    assert result.precision == pytest.approx(2 / 3)
    assert result.recall == pytest.approx(2 / 4)
    assert result.kind_accuracy == pytest.approx(1 / 2)


def test_a_box_of_one_image_does_not_match_another_image() -> None:
    assert score([([MOTH], []), ([], [found(0, 0, 10, 10, ("moth", True))])]).matched == 0


def test_nothing_is_unknown_not_zero() -> None:
    result = score([])
    assert (result.precision, result.recall, result.kind_accuracy) == (None, None, None)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([("moth", True)], "moth"),
        ([("nonmoth", True)], "nonmoth"),
        ([("moth", False), ("banded_moth", True)], "moth"),
        ([("moth", True), ("banded_moth", False)], "moth"),
        ([("nonmoth", False), ("wasp", True)], "nonmoth"),
        ([("moth", False)], "moth"),
        ([("unheard", True), ("nonmoth", False)], "nonmoth"),
        ([], None),
    ],
)
def test_kind_of_a_detection(labels: list[tuple[str, bool]], kind: str | None) -> None:
    assert kind_of(found(0, 0, 1, 1, *labels)) == kind


def test_a_wrong_answer_is_an_error_not_a_missed_insect() -> None:
    with pytest.raises(ValueError, match="not finite"):
        score([([MOTH], [found(0, 0, float("nan"), 10)])])
    with pytest.raises(KeyError):
        score([([MOTH], [{"classifications": []}])])


def test_iou() -> None:
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert iou((3, 3, 3, 3), (3, 3, 3, 3)) == 0
