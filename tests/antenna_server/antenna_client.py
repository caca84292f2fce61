"""A worker's view of the embedded server, by `requests`, and what the tests send with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import requests

from amidiag.soak.antenna import AntennaServer
from amidiag.soak.traps import TrapSpec

TOKEN = "trap-token"
TIME_LIMIT_S = 30.0


class Worker:
    """One keep-alive connection with the right token."""

    def __init__(self, server: AntennaServer, token: str = TOKEN) -> None:
        self.base_url = server.base_url
        self.session = requests.Session()
        # No proxy of the environment may stand between a test and loopback.
        self.session.trust_env = False
        self.session.headers["Authorization"] = f"Token {token}"

    def get(self, path: str, **query: Any) -> requests.Response:
        return self.session.get(f"{self.base_url}{path}", params=query, timeout=TIME_LIMIT_S)

    def post(self, path: str, value: Any) -> requests.Response:
        return self.session.post(f"{self.base_url}{path}", json=value, timeout=TIME_LIMIT_S)

    def poll(self, **query: Any) -> list[int]:
        query = {"ids_only": 1, "incomplete_only": 1, "limit": 100, "dispatch_mode": "async_api", **query}
        answer = self.get("/jobs", **query)
        answer.raise_for_status()
        return [job["id"] for job in answer.json()["results"]]

    def reserve(self, job_id: int, batch_size: int) -> list[dict[str, str]]:
        answer = self.post(f"/jobs/{job_id}/tasks/", {"batch_size": batch_size})
        answer.raise_for_status()
        tasks: list[dict[str, str]] = answer.json()["tasks"]
        return tasks

    def reply(self, job_id: int, *tasks: dict[str, str], error: str | None = None) -> requests.Response:
        results = [
            {
                "reply_subject": task["reply_subject"],
                "result": a_result(task["image_id"])
                if error is None
                else {"error": error, "image_id": task["image_id"]},
            }
            for task in tasks
        ]
        return self.post(f"/jobs/{job_id}/result/", {"results": results})


def a_result(image_id: str) -> dict[str, Any]:
    """A result in every detail of ANTENNA_API.md."""
    algorithm = {"name": "Moth / nonmoth", "key": "moth_nonmoth"}
    timestamp = "2026-11-20T08:00:00+00:00"
    classification = {
        "classification": "moth",
        "labels": ["moth", "nonmoth"],
        "scores": [0.9, 0.1],
        "logits": [2.0, -0.2],
        "inference_time": 0.01,
        "algorithm": algorithm,
        "terminal": True,
        "timestamp": timestamp,
    }
    detection = {
        "source_image_id": image_id,
        "bbox": {"x1": 1.0, "y1": 2.5, "x2": 30.0, "y2": 41},
        "inference_time": 0.2,
        "algorithm": algorithm,
        "timestamp": timestamp,
        "crop_image_url": None,
        "classifications": [classification],
    }
    return {
        "pipeline": "moth_binary",
        "total_time": 0.5,
        "source_images": [{"id": image_id, "url": "http://127.0.0.1/x.jpg"}],
        "detections": [detection],
    }


def traps(count: int) -> tuple[TrapSpec, ...]:
    return tuple(TrapSpec(seed=seed, width=160, height=120) for seed in range(count))


def address(server: AntennaServer) -> tuple[str, int]:
    """Host and port."""
    parts = urlsplit(server.base_url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def eventually(condition: Callable[[], bool]) -> bool:
    """True as soon as the condition holds; False when it does not for a very long time."""
    deadline = time.monotonic() + TIME_LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
