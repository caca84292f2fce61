"""What requests takes from the environment still counts, though it is asked once for each host."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from worker.ingest.download import download
from worker.ingest.image_session import image_session
from worker.ingest.limits import ImageLimits

LIMITS = ImageLimits(max_bytes=2**20, max_pixels=10**6, timeout_s=10.0)


class _Server(ThreadingHTTPServer):
    """Keeps the path and the Authorization header of every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[tuple[str, str | None]] = []


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Authorization"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def seen() -> Iterator[_Server]:
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with image_session(1) as session:
        yield session


def test_netrc_and_the_address_name_who_asks(
    seen: _Server, session: requests.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    netrc.chmod(0o600)
    port = seen.server_port
    download(session, f"http://you:yours@127.0.0.1:{port}/by-address", LIMITS)
    monkeypatch.setenv("NETRC", str(netrc))
    with image_session(1) as other:
        for _ in range(2):
            download(other, f"http://127.0.0.1:{port}/by-netrc", LIMITS)
    by_address, by_netrc = (
        requests.auth._basic_auth_str("you", "yours"),
        requests.auth._basic_auth_str("me", "mine"),
    )
    assert seen.seen == [("/by-address", by_address), ("/by-netrc", by_netrc), ("/by-netrc", by_netrc)]


def test_a_proxy_of_the_environment_is_used_but_never_for_this_machine(
    seen: _Server, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{seen.server_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    download(session, "http://images.invalid/a.jpg", LIMITS)
    download(session, f"http://127.0.0.1:{seen.server_port}/here", LIMITS)
    assert [path for path, _ in seen.seen] == ["http://images.invalid/a.jpg", "/here"]


def test_a_bundle_of_certificates_of_the_environment_is_used(
    session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/bundle.pem")
    settings = session.merge_environment_settings("https://images.invalid/a", {}, True, None, None)
    assert (settings["verify"], settings["stream"]) == ("/nowhere/bundle.pem", True)
