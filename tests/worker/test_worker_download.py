"""Downloads end: with the image, or with a reason, in bounded time and size."""

from __future__ import annotations

import gzip
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from worker.ingest.download import DownloadError, download, download_to
from worker.ingest.image_session import image_session
from worker.ingest.limits import ImageLimits
from worker.settings import read

pytestmark = pytest.mark.timeout(60)

Speak = Callable[[socket.socket], None]
Fetch = Callable[..., bytes]

WIDE = ImageLimits(max_bytes=1 << 24, max_pixels=1 << 24, timeout_s=30.0)


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

    def get(speak: Speak, **limits: float) -> bytes:
        threading.Thread(target=serve, args=(speak,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.jpg"
        return download(session, url, replace(WIDE, **limits))  # type: ignore[arg-type]

    yield get
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    session.close()


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "Connection: close", "", ""]).encode()


@pytest.mark.parametrize(
    "start",
    [
        head("Content-Length: 999999"),
        head("Transfer-Encoding: chunked") + b"F423F\r\n",
        b"HTTP/1.1 200 OK\r\nX-Slow: ",
    ],
    ids=["body", "chunk", "headers"],
)
def test_what_drips_is_given_up_after_the_limit(fetch: Fetch, start: bytes) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    with pytest.raises(DownloadError, match=r"not finished after 0\.5 s"):
        fetch(drip, timeout_s=0.5)


def test_silence_ends_at_the_limit(fetch: Fetch) -> None:
    over = threading.Event()
    with pytest.raises(DownloadError, match=r"not finished after 0\.3 s"):
        fetch(lambda connection: over.wait(20) and None, timeout_s=0.3)
    over.set()


def test_redirects_without_an_end_are_an_error(fetch: Fetch) -> None:
    again = head("Location: /a.jpg", "Content-Length: 0", status="302 Found")
    with pytest.raises(DownloadError, match="TooManyRedirects"):
        fetch(lambda connection: connection.sendall(again))


@pytest.mark.parametrize("status", ["503 Busy", "429 Too Many Requests"])
def test_a_server_that_is_busy_does_not_decide_how_long_the_loader_sleeps(fetch: Fetch, status: str) -> None:
    answered = []

    def later(connection: socket.socket) -> None:
        answered.append(status)
        connection.sendall(head("Retry-After: 3600", "Content-Length: 0", status=status))

    with pytest.raises(DownloadError, match=status):
        fetch(later)
    assert len(answered) == 3


def test_a_body_beyond_the_limit_is_not_read_to_its_end(fetch: Fetch) -> None:
    def flood(connection: socket.socket) -> None:
        connection.sendall(head())
        while True:
            connection.sendall(bytes(1 << 16))

    with pytest.raises(DownloadError, match="more than 1048576 bytes"):
        fetch(flood, max_bytes=1 << 20)


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


@pytest.mark.parametrize("way", ["cut", "silent"])
def test_a_connection_that_fails_within_the_body_costs_one_more_try(fetch: Fetch, way: str) -> None:
    body = bytes(range(250)) * 1200
    tries: list[int] = []
    over = threading.Event()

    def speak(connection: socket.socket) -> None:
        tries.append(1)
        start = head(f"Content-Length: {len(body)}")
        if len(tries) > 1:
            connection.sendall(start + body)
            return
        connection.sendall(start + body[:1000])
        if way == "silent":
            threading.Timer(0.6, over.set).start()
            over.wait(20)

    assert fetch(speak, read_timeout_s=0.3) == body
    assert len(tries) == 2


def test_a_store_that_restarts_costs_no_image() -> None:
    """Neither refused connections nor a proxy that finds nobody behind it, for longer than urllib3 tries."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    said: list[bytes] = []

    def serve() -> None:
        time.sleep(1.5)
        with socket.create_server(("127.0.0.1", port)) as listener:
            while len(said) < 6:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    busy = head("Content-Length: 0", status="503 Busy")
                    said.append(head("Content-Length: 2") + b"ok" if len(said) == 5 else busy)
                    connection.sendall(said[-1])

    threading.Thread(target=serve, daemon=True).start()
    with image_session(2) as session:
        image = download(session, f"http://127.0.0.1:{port}/a.jpg", replace(WIDE, patience_s=20.0))
    assert image == b"ok"
    assert len(said) == 6


def test_once_a_store_was_given_up_its_images_are_waited_for_no_more_until_one_comes(fetch: Fetch) -> None:
    tries: list[int] = []
    is_up = threading.Event()

    def speak(connection: socket.socket) -> None:
        tries.append(1)
        connection.sendall(head("Content-Length: 2") + b"ok" if is_up.is_set() else head(status="503 Busy"))

    def tried() -> int:
        before = len(tries)
        with pytest.raises(DownloadError, match="503 Busy"):
            fetch(speak, patience_s=3.0)
        return len(tries) - before

    of_the_session = 3
    assert tried() > of_the_session
    assert tried() == of_the_session
    is_up.set()
    assert fetch(speak) == b"ok"
    is_up.clear()
    assert tried() > of_the_session


def test_limits_leave_time_for_an_answer_before_the_task_comes_again() -> None:
    def limits(**settings: str) -> tuple[float, float, float]:
        of = ImageLimits.of(read(environ=settings).settings)
        return of.timeout_s, of.read_timeout_s, of.patience_s

    assert limits(AMI_VISIBILITY_TIMEOUT_S="30") == (20.0, 10.0, 10.0)
    assert limits(AMI_VISIBILITY_TIMEOUT_S="30", AMI_IMAGE_TIMEOUT_S="5") == (5.0, 10.0, 10.0)
    assert limits(AMI_VISIBILITY_TIMEOUT_S="6") == (5.0, 5.0, 2.0)
    assert limits(AMI_VISIBILITY_TIMEOUT_S="0") == (120.0, 30.0, 10.0)


def test_a_redirect_to_a_file_is_not_followed(fetch: Fetch) -> None:
    moved = head("Location: file:///etc/passwd", "Content-Length: 0", status="302 Found")
    with pytest.raises(DownloadError, match="InvalidSchema"):
        fetch(lambda connection: connection.sendall(moved))


def test_the_signature_of_an_address_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    session = image_session(1)
    with pytest.raises(DownloadError) as e:
        download(session, "http://127.0.0.1:1/a.jpg?signature=hush", WIDE)
    session.close()
    assert "hush" not in caplog.text + str(e.value)


@pytest.mark.parametrize(
    "url", ["http://[::1/a.jpg", "http://a..b/a.jpg", "ftp://127.0.0.1/a.jpg", "a.jpg", ""]
)
def test_an_address_that_is_none_is_an_error_of_the_download(url: str) -> None:
    session = image_session(1)
    with pytest.raises(DownloadError):
        download(session, url, WIDE)
    session.close()


def test_a_file_that_cannot_be_written_is_no_error_of_the_download() -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(head("Content-Length: 3") + b"abc")

    threading.Thread(target=serve, daemon=True).start()
    session = image_session(1)
    with pytest.raises(OSError, match="No space left"):
        download_to(session, f"http://127.0.0.1:{server.getsockname()[1]}/", WIDE, Full())
    session.close()
    server.close()
