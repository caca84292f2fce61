"""The controller's side door: its words over private Unix sockets, never over the port that the worker sees.

The controller creates the server with one end of a socket pair. Over it the controller sends
further socket ends (SCM_RIGHTS), one for each of its threads that has something to say; on each
of them a line of JSON is answered by a line of JSON. There is no name, no port and no secret, and
the end of the first socket is the end of the server.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any

from amidiag.soak.antenna import codec
from amidiag.soak.antenna.listener import Listener
from amidiag.soak.antenna.parts import Parts
from amidiag.soak.antenna.words import Answer, ImageSpec, JobState, ServerState

_FIRST_IMAGE = 100_001


class Control:
    """Does what the controller says. Thread-safe."""

    def __init__(self, parts: Parts, listener: Listener, store: Listener) -> None:
        """`listener` serves the API, `store` the images."""
        self._parts = parts
        self._listener = listener
        self._store = store
        # Image ids are far from job ids, so that a worker that mixes them up is found out.
        self._image_ids = map(str, itertools.count(_FIRST_IMAGE))
        self._words: dict[str, Callable[..., Any]] = {
            "add_job": self._add_job,
            "list_jobs": parts.board.show,
            "state": self._state,
            "answers": self._answers,
            "stories": lambda job_id: codec.encode_stories(parts.queue.stories(job_id)),
            "registered": lambda: codec.encode_registrations(parts.registry.registered()),
            "fault": self._fault,
            "clear_faults": parts.faults.clear,
            "hold_polls": parts.gate.hold,
            "wait_poll": parts.gate.wait,
            "release_poll": self._release_poll,
            "free_polls": parts.gate.free,
        }

    def listen(self, channel: socket.socket) -> None:
        """Starts to answer on a channel, in its own thread, until the controller closes it."""
        threading.Thread(target=self._listen, args=(channel,), name="control", daemon=True).start()

    def _listen(self, channel: socket.socket) -> None:
        with channel, channel.makefile("rb") as lines, contextlib.suppress(ConnectionError):
            for line in lines:
                channel.sendall(json.dumps(self._reply(json.loads(line))).encode() + b"\n")

    def _reply(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"value": self._words[message["word"]](**message["arguments"])}
        except (ValueError, LookupError) as error:
            return {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - the controller must hear of a bug, not wait for ever
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}

    def _add_job(self, job: codec.Json) -> int:
        spec = codec.decode_job(job)
        images = [image if isinstance(image, ImageSpec) else ImageSpec(image) for image in spec.images]
        image_ids = [next(self._image_ids) for _ in images]
        for image_id, image in zip(image_ids, images, strict=True):
            self._parts.images.add(image_id, image)
        return self._parts.board.add(spec, image_ids)

    def _fault(self, fault: codec.Json) -> None:
        spec = codec.decode_fault(fault)
        self._parts.faults.add(spec)
        if spec.kind == "down":
            if spec.on != ("images",):
                self._listener.down(spec.seconds)
            if not spec.on or "images" in spec.on:
                self._store.down(spec.seconds)
        elif spec.kind == "clock-jump":
            self._parts.clock.jump(spec.seconds)
        elif spec.kind == "clock-stop":
            self._parts.clock.stop(spec.seconds)

    def _release_poll(self, jobs: list[int] | None) -> bool:
        if jobs is not None:
            self._parts.board.check(jobs)
        return self._parts.gate.release(jobs)

    def _answers(self, job_id: int) -> list[codec.Json]:
        answers = []
        for image_id, result, times in self._parts.queue.answers(job_id):
            image = self._parts.images.spec(image_id)
            assert image is not None
            answers.append(Answer(image_id, image.trap, result, times))
        return codec.encode_answers(answers)

    def _state(self, jobs: list[int] | None) -> codec.Json:
        parts = self._parts
        states = {job_id: self._job_state(job_id) for job_id in (parts.board.ids() if jobs is None else jobs)}
        traffic = parts.meter.traffic()
        state = ServerState(
            **_fields(parts.queue.totals()),
            jobs=states,
            polls=traffic.requests.get("GET jobs", {}).get(200, 0),
            polls_waiting=parts.gate.waiting(),
            unauthorized=sum(statuses.get(401, 0) for statuses in traffic.requests.values()),
            unknown_replies=parts.queue.unknown_replies(),
            requests=traffic.requests,
            faults=parts.faults.met(),
            bytes_in=traffic.bytes_in,
            bytes_out=traffic.bytes_out,
            connections_open=traffic.connections_open,
            connections_total=traffic.connections_total,
        )
        return codec.encode_state(state)

    def _job_state(self, job_id: int) -> JobState:
        parts = self._parts
        return JobState(
            **_fields(parts.queue.counts(job_id)),
            job_id=job_id,
            pipeline=parts.board.pipeline(job_id),
            complete=parts.queue.is_complete(job_id),
        )


def _fields(counts: Any) -> dict[str, int]:
    return {name: getattr(counts, name) for name in counts.__dataclass_fields__}
