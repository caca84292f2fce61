"""Downloads end: with the image, or with a reason, in bounded time and size."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from worker.ingest import download as module
from worker.ingest.download import DownloadError, download, image_session

pytestmark = pytest.mark.timeout(60)

Speak = Callable[[socket.socket], None]
Fetch = Callable[[Speak], bytes]


@pytest.fixture
def fetch() -> Iterator[Fetch]:
    """Download from a server that says, byte for byte, what the test wants."""
    listener, session = socket.create_server(("127.0.0.1", 0)), image_session(2)

    def serve(speak: Speak) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                try:
                    speak(connection)
                except OSError:
                    continue

    def get(speak: Speak) -> bytes:
        threading.Thread(target=serve, args=(speak,), daemon=True).start()
        return download(session, f"http://127.0.0.1:{listener.getsockname()[1]}/a.jpg")

    yield get
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    session.close()


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "Connection: close", "", ""]).encode()


@pytest.mark.parametrize(
    "start", [head("Content-Length: 999999"), head("Transfer-Encoding: chunked") + b"F423F\r\n"]
)
def test_a_body_that_drips_is_given_up_after_the_limit(
    fetch: Fetch, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOTAL_TIMEOUT_S", 0.5)

    def drip(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    with pytest.raises(DownloadError, match="not finished after"):
        fetch(drip)


@pytest.mark.parametrize("status", ["503 Busy", "429 Too Many Requests"])
def test_a_server_that_is_busy_does_not_decide_how_long_the_loader_sleeps(fetch: Fetch, status: str) -> None:
    answered = []

    def later(connection: socket.socket) -> None:
        answered.append(status)
        connection.sendall(head("Retry-After: 3600", "Content-Length: 0", status=status))

    with pytest.raises(DownloadError, match=status):
        fetch(later)
    assert len(answered) == 3


def test_a_body_beyond_the_limit_is_not_read_to_its_end(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1 << 20)

    def flood(connection: socket.socket) -> None:
        connection.sendall(head())
        while True:
            connection.sendall(bytes(1 << 16))

    with pytest.raises(DownloadError, match="more than 1048576 bytes"):
        fetch(flood)


@pytest.mark.parametrize(
    ("start", "sent"),
    [
        (head("Content-Length: 300000"), lambda body: body),
        (head(), lambda body: body),
        (head("Content-Encoding: gzip"), gzip.compress),
        (head("Transfer-Encoding: chunked"), lambda body: b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)),
    ],
)
def test_a_body_arrives_whole_however_it_is_sent(
    fetch: Fetch, start: bytes, sent: Callable[[bytes], bytes]
) -> None:
    body = bytes(range(250)) * 1200
    assert fetch(lambda connection: connection.sendall(start + sent(body))) == body


def test_a_body_that_is_cut_is_an_error(fetch: Fetch) -> None:
    with pytest.raises(DownloadError, match="IncompleteRead"):
        fetch(lambda connection: connection.sendall(head("Content-Length: 300000") + b"too short"))


def test_a_redirect_to_a_file_is_not_followed(fetch: Fetch) -> None:
    moved = head("Location: file:///etc/passwd", "Content-Length: 0", status="302 Found")
    with pytest.raises(DownloadError, match="InvalidSchema"):
        fetch(lambda connection: connection.sendall(moved))


def test_the_signature_of_an_address_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    session = image_session(1)
    with pytest.raises(DownloadError) as e:
        download(session, "http://127.0.0.1:1/a.jpg?signature=hush")
    session.close()
    assert "hush" not in caplog.text + str(e.value)
