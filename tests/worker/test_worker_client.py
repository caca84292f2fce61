"""The calls of the API against servers that stall, drip, hang up, or ask to be left alone."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from email.utils import formatdate

import pytest
from scripted_server import (
    Act,
    ScriptedServer,
    answer,
    drip,
    half_close,
    hang_up,
    reset,
    silence,
)
from worker_rig import TOKEN

from worker.antenna.client import LONGEST_BODY, AntennaClient, call_limit_s
from worker.antenna.retry_after import LONGEST_S, retry_after_s
from worker.antenna.schemas import (
    AntennaError,
    BadAnswerError,
    CutAnswerError,
    ForeignAnswerError,
    RefusedContentError,
    UnauthorizedError,
    UnavailableError,
)

pytestmark = pytest.mark.timeout(60)

Call = Callable[[AntennaClient], object]

NO_JOBS = answer("200 OK", b'{"results": []}')
NO_TASKS = answer("200 OK", b'{"tasks": []}')
RESULTS = [{"reply_subject": "a", "result": {"error": "tested", "image_id": None}}]


def poll(client: AntennaClient) -> object:
    return client.jobs(["moth_binary"])


def reserve(client: AntennaClient) -> object:
    return client.reserve(1, 4)


def post(client: AntennaClient) -> object:
    return client.post_results(1, RESULTS)


def on(server: ScriptedServer, limit_s: float = 30.0) -> AntennaClient:
    return AntennaClient(server.base_url, TOKEN, limit_s=limit_s)


def test_a_call_is_cut_before_half_of_the_visibility_time_is_over() -> None:
    assert [call_limit_s(s) for s in (0, 2, 30, 40, 3600)] == [30, 5, 15, 20, 30]


@pytest.mark.parametrize(
    "act",
    [
        silence,
        drip(b"HTTP/1.1 200 OK\r\nX-Slow: "),
        drip(b"HTTP/1.1 503 Busy\r\nContent-Length: 100000\r\n\r\n"),
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("call", [poll, reserve])
def test_no_answer_outlasts_the_limit_however_slowly_it_comes(act: Act, call: Call) -> None:
    with ScriptedServer(act) as server:
        with pytest.raises(UnavailableError):
            call(on(server, limit_s=0.4))
        assert len(server.requests) == 1


def test_a_server_that_does_not_read_is_given_up_at_the_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = AntennaClient(f"http://127.0.0.1:{listener.getsockname()[1]}", TOKEN, limit_s=0.4)
        large = [{"reply_subject": "a", "result": {"error": "x" * 32_000_000, "image_id": None}}]
        with pytest.raises(UnavailableError, match=r"no whole answer within 0\.4 s"):
            client.post_results(1, large)


def test_a_long_way_up_has_the_limit_of_the_call_and_not_that_of_connecting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As urllib3 has it by itself."""
    monkeypatch.setattr("worker.antenna.client.CONNECT_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = AntennaClient(f"http://127.0.0.1:{listener.getsockname()[1]}", TOKEN, limit_s=1.0)
        large = [{"reply_subject": "a", "result": {"error": "x" * 32_000_000, "image_id": None}}]
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="no whole answer within 1 s"):
            client.post_results(1, large)
        assert time.monotonic() - began >= 0.9


@pytest.mark.parametrize("act", [reset, hang_up, half_close])
@pytest.mark.parametrize("call", [poll, post])
def test_a_call_on_which_the_server_hung_up_is_made_once_more(act: Act, call: Call) -> None:
    with ScriptedServer(act, NO_JOBS) as server:
        call(on(server))
        first, second = server.requests
        assert (first.line, first.body) == (second.line, second.body)
        assert first.connection != second.connection


@pytest.mark.parametrize("call", [poll, post])
def test_only_once_more(call: Call) -> None:
    with ScriptedServer(reset, reset, NO_JOBS) as server:
        with pytest.raises(UnavailableError):
            call(on(server))
        assert len(server.requests) == 2


@pytest.mark.parametrize("act", [reset, hang_up, half_close])
def test_a_reservation_on_which_the_server_hung_up_is_not_made_again(act: Act) -> None:
    """What the server has handed out meanwhile would be handed out twice."""
    with ScriptedServer(NO_TASKS, act) as server:
        client = on(server)
        reserve(client)
        with pytest.raises(UnavailableError):
            reserve(client)
        assert len(server.requests) == 2


def test_a_connection_that_the_server_closed_while_it_rested_costs_no_call() -> None:
    def answer_and_close(sock: socket.socket) -> bool:
        NO_TASKS(sock)
        return False

    with ScriptedServer(answer_and_close, NO_TASKS) as server:
        client = on(server)
        reserve(client)
        time.sleep(0.2)
        assert reserve(client) == []
        assert [r.connection for r in server.requests] == [1, 2]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "99999999999999999999"}, LONGEST_S),
        ({"Retry-After": formatdate(2_000_000_030), "Date": formatdate(2_000_000_000)}, 30),
        ({"Retry-After": formatdate(1_000_000_000, usegmt=True)}, 0),
        ({"Retry-After": "Wed, 21 Oct 2065 07:28:00 GMT"}, LONGEST_S),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": ""}, None),
        ({}, None),
    ],
)
def test_a_server_says_how_long_it_wants_to_be_left_alone(
    headers: dict[str, str], expected: float | None
) -> None:
    assert retry_after_s(headers) == expected


@pytest.mark.parametrize(
    ("status", "call", "other"),
    [("429 Too Many Requests", poll, reserve), ("503 Service Unavailable", reserve, poll)],
)
def test_a_call_that_comes_before_the_server_wants_it_is_not_sent(
    status: str, call: Call, other: Call
) -> None:
    nothing = answer(body=b'{"tasks": [], "results": []}')
    with ScriptedServer(answer(status, b"", "Retry-After: 1"), nothing, nothing) as server:
        client = on(server)
        with pytest.raises(UnavailableError) as first:
            call(client)
        with pytest.raises(UnavailableError) as second:
            call(client)
        assert (first.value.retry_after_s, str(first.value)) == (1, str(second.value))
        assert second.value.retry_after_s is not None
        assert len(server.requests) == 1
        other(client)
        time.sleep(second.value.retry_after_s)
        assert call(client) == []
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    "act",
    [
        answer(body=b"<html>We are back soon</html>"),
        answer("302 Found", b"", "Location: http://127.0.0.1:1/login"),
        answer("502 Bad Gateway", b"<html></html>"),
        *(answer(f"{status} No", b"<html>of a proxy</html>") for status in (400, 401, 403, 404, 405, 410)),
        # Traefik, while the container behind it is made anew.
        answer("404 Not Found", b"404 page not found\n"),
    ],
)
def test_a_page_is_no_acceptance_of_results(act: Act) -> None:
    with ScriptedServer(act) as server, pytest.raises(UnavailableError):
        post(on(server))


@pytest.mark.parametrize(
    ("status", "expected"), [(400, RefusedContentError), (403, UnauthorizedError), (404, BadAnswerError)]
)
@pytest.mark.parametrize("body", [b'{"detail": "No."}', b'["No."]', b""])
def test_what_the_api_says_is_final(status: int, expected: type[AntennaError], body: bytes) -> None:
    with ScriptedServer(answer(f"{status} No", body)) as server, pytest.raises(AntennaError) as refused:
        post(on(server))
    assert type(refused.value) is expected


def test_a_page_that_forbids_is_no_refusal_of_the_token() -> None:
    """A worker that ends with 77 is not started again."""
    page = answer("403 Forbidden", b"<html>of a proxy</html>")
    with ScriptedServer(page) as server, pytest.raises(ForeignAnswerError, match="no answer of the API"):
        poll(on(server))


def test_an_empty_answer_that_says_ok_is_one() -> None:
    with ScriptedServer(answer("204 No Content", b""), answer("200 OK", b"")) as server:
        client = on(server)
        assert (post(client), post(client)) == (None, None)


def test_results_of_which_the_acceptance_was_cut_are_accepted() -> None:
    with ScriptedServer(drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")) as server:
        assert on(server, limit_s=0.4).post_results(1, RESULTS) is None


def test_an_answer_without_an_end_does_not_fill_the_memory() -> None:
    def flood(sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            sock.sendall(b" " * 1_000_000)

    with (
        ScriptedServer(flood) as server,
        pytest.raises(BadAnswerError, match=f"more than {LONGEST_BODY} bytes"),
    ):
        poll(on(server))


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff\xfe\x00", b"{", b""])
@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request", "404 Not Found"])
def test_whatever_a_server_says_is_an_error_of_ours(body: bytes, status: str) -> None:
    with ScriptedServer(answer(status, body)) as server, pytest.raises(AntennaError):
        poll(on(server))


def test_a_cut_answer_to_a_poll_is_no_answer() -> None:
    def cut(sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        return False

    with ScriptedServer(cut) as server, pytest.raises(CutAnswerError, match="IncompleteRead"):
        poll(on(server))
