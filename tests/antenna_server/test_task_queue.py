"""The queue itself, under a clock of its own: nothing here waits."""

from __future__ import annotations

import pytest

from amidiag.soak.antenna.task_queue import TaskQueue, UnknownJobError

ERROR = {"error": "broken image", "image_id": None}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_queue(images: int = 3, *, max_deliver: int = 2) -> tuple[TaskQueue, Clock]:
    clock = Clock()
    queue = TaskQueue(visibility_timeout_s=30.0, max_deliver=max_deliver, clock=clock)
    queue.add_job(1, [f"image-{number}" for number in range(images)])
    return queue, clock


def result_for(image_id: str) -> dict[str, object]:
    return {
        "pipeline": "p",
        "total_time": 1.0,
        "source_images": [{"id": image_id, "url": "u"}],
        "detections": [],
    }


def test_reserved_tasks_are_not_handed_out_again_and_stay_in_order() -> None:
    queue, _ = a_queue(5)

    first, second = queue.reserve(1, 2), queue.reserve(1, 10)

    assert [task.image_id for task in first + second] == [f"image-{n}" for n in range(5)]
    assert queue.reserve(1, 1) == []
    assert len({task.task_id for task in first + second}) == 5
    assert not queue.is_complete(1)


def test_reservation_ends_at_the_visibility_time_not_before() -> None:
    queue, clock = a_queue(1)
    (first,) = queue.reserve(1, 1)

    clock.now += 29.999
    assert queue.reserve(1, 1) == []
    clock.now += 0.001
    (second,) = queue.reserve(1, 1)

    assert (second.task_id, second.image_id) == (first.task_id, first.image_id)
    assert second.reply_subject != first.reply_subject
    assert (first.number, second.number) == (1, 2)
    assert queue.counts(1).redelivered == 1


def test_tasks_delivered_before_are_handed_out_before_fresh_ones() -> None:
    queue, clock = a_queue(3)
    queue.reserve(1, 1)
    clock.now += 30

    assert [task.image_id for task in queue.reserve(1, 3)] == ["image-0", "image-1", "image-2"]


def test_a_task_is_lost_after_its_last_delivery() -> None:
    queue, clock = a_queue(1, max_deliver=3)
    for _ in range(3):
        assert queue.counts(1).lost == 0
        assert len(queue.reserve(1, 1)) == 1
        clock.now += 30

    assert queue.reserve(1, 1) == []
    assert queue.counts(1).lost == 1
    assert queue.counts(1).redelivered == 2
    assert queue.is_complete(1)
    assert queue.incomplete() == []


def test_max_deliver_one_never_redelivers() -> None:
    queue, clock = a_queue(1, max_deliver=1)
    queue.reserve(1, 1)
    clock.now += 30

    assert queue.reserve(1, 1) == []
    assert queue.totals().lost == 1


def test_answers_are_kept_and_complete_the_job() -> None:
    queue, clock = a_queue(2)
    first, second = queue.reserve(1, 2)

    assert queue.answer(1, first.reply_subject, result_for("image-0"))
    assert not queue.is_complete(1)
    assert queue.answer(1, second.reply_subject, ERROR)

    counts = queue.counts(1)
    assert (counts.results, counts.errors, counts.answered, counts.reserved) == (1, 1, 2, 0)
    assert queue.is_complete(1)
    clock.now += 1000
    assert queue.reserve(1, 5) == []
    assert queue.counts(1) == counts
    assert [answer.times for answer in queue.answers(1)] == [1, 1]


def test_only_the_first_answer_is_kept_and_further_ones_are_counted() -> None:
    queue, _ = a_queue(1)
    (task,) = queue.reserve(1, 1)

    for result in (result_for("image-0"), ERROR, ERROR):
        assert queue.answer(1, task.reply_subject, result)

    (answer,) = queue.answers(1)
    assert answer == ("image-0", result_for("image-0"), 3)
    assert queue.counts(1).answered_twice == 2
    assert (queue.counts(1).results, queue.counts(1).errors) == (1, 0)


def test_a_late_answer_counts_while_the_task_waits_for_its_next_delivery() -> None:
    queue, clock = a_queue(1)
    (task,) = queue.reserve(1, 1)
    clock.now += 31

    assert queue.answer(1, task.reply_subject, ERROR)

    assert queue.reserve(1, 1) == []
    assert (queue.counts(1).late, queue.counts(1).errors, queue.counts(1).waiting) == (1, 1, 0)


def test_a_late_answer_to_an_earlier_delivery_counts_and_the_next_one_is_the_second() -> None:
    queue, clock = a_queue(1)
    (first,) = queue.reserve(1, 1)
    clock.now += 31
    (second,) = queue.reserve(1, 1)

    assert queue.answer(1, first.reply_subject, result_for("image-0"))
    assert queue.is_complete(1)
    assert queue.answer(1, second.reply_subject, result_for("image-0"))

    counts = queue.counts(1)
    assert (counts.late, counts.answered_twice, counts.redelivered, counts.reserved) == (1, 1, 1, 0)


def test_an_answer_in_time_to_the_second_delivery_is_not_late() -> None:
    queue, clock = a_queue(1)
    queue.reserve(1, 1)
    clock.now += 31
    (second,) = queue.reserve(1, 1)
    clock.now += 29

    queue.answer(1, second.reply_subject, result_for("image-0"))

    assert queue.counts(1).late == 0


def test_a_lost_task_that_is_answered_after_all_is_no_longer_lost() -> None:
    queue, clock = a_queue(1, max_deliver=1)
    (task,) = queue.reserve(1, 1)
    clock.now += 31
    assert queue.counts(1).lost == 1

    assert queue.answer(1, task.reply_subject, result_for("image-0"))

    assert (queue.counts(1).lost, queue.counts(1).results, queue.counts(1).late) == (0, 1, 1)


def test_unknown_and_foreign_reply_subjects_answer_nothing() -> None:
    queue, _ = a_queue(1)
    queue.add_job(2, ["other"])
    (task,) = queue.reserve(1, 1)

    assert not queue.answer(1, "$JS.ACK.nonsense", ERROR)
    assert not queue.answer(2, task.reply_subject, ERROR)

    assert queue.unknown_replies() == 2
    assert queue.totals().answered == 0


def test_answers_that_name_another_image_are_counted() -> None:
    queue, _ = a_queue(3)
    first, second, third = queue.reserve(1, 3)

    queue.answer(1, first.reply_subject, result_for("image-1"))
    queue.answer(1, second.reply_subject, {"error": "x", "image_id": "image-0"})
    queue.answer(1, third.reply_subject, {"error": "x", "image_id": None})

    assert queue.counts(1).wrong_image == 2


def test_jobs_are_apart_and_totals_are_their_sum() -> None:
    queue, clock = a_queue(4)
    queue.add_job(2, ["a", "b"])
    queue.add_job(3, [])
    queue.reserve(1, 3)
    clock.now += 10
    (other,) = queue.reserve(2, 1)
    clock.now += 20
    queue.answer(2, other.reply_subject, ERROR)

    assert queue.incomplete() == [1, 2]
    assert queue.is_complete(3)
    one, two, totals = queue.counts(1), queue.counts(2), queue.totals()
    assert (one.waiting, one.reserved, two.waiting, two.errors) == (4, 0, 1, 1)
    for counts in (one, two, totals):
        assert counts.total == counts.waiting + counts.reserved + counts.answered + counts.lost
    assert totals.total == one.total + two.total
    assert totals.waiting == 5


def test_jobs_that_are_not_there_or_there_already() -> None:
    queue, _ = a_queue()
    with pytest.raises(UnknownJobError, match="no job has the id 9"):
        queue.reserve(9, 1)
    with pytest.raises(UnknownJobError):
        queue.answer(9, "x", ERROR)
    with pytest.raises(ValueError, match="there is a job 1 already"):
        queue.add_job(1, [])
