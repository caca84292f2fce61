"""The session by which images are fetched: environment and .netrc are asked once for each host, not for each image."""

from __future__ import annotations

import functools
import logging
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_auth_from_url, get_netrc_auth
from urllib3.util.retry import Retry

from worker.deadline import DeadlineAdapter
from worker.http import USER_AGENT, proxies_for
from worker.ingest import beat

_HOSTS_KNOWN = 64


def image_session(threads: int) -> requests.Session:
    """A session for `threads` downloads at a time. It has no token: images may lie on any host."""
    # It warns of each retry with path and query, and the query of a signed address is a secret.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    retry = _Retry(
        total=2,
        backoff_factor=0.25,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=("GET",),
        raise_on_status=False,
        # Whoever has the image must not decide for how long a loader sleeps.
        respect_retry_after_header=False,
    )
    session = _Session()
    session.headers["User-Agent"] = USER_AGENT
    for scheme in ("http://", "https://"):
        session.mount(scheme, DeadlineAdapter(pool_connections=4, pool_maxsize=threads, max_retries=retry))
    return session


class _Retry(Retry):
    """A try that failed is a sign of life too: one image alone may take several."""

    def increment(self, *args: Any, **kwargs: Any) -> _Retry:
        beat.alive()
        return super().increment(*args, **kwargs)


class _Session(requests.Session):
    """requests reads proxies, certificates and .netrc anew for every request: a third of what a small image costs."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = _FromNetrc()
        self._of_host = functools.lru_cache(_HOSTS_KNOWN)(self._ask)

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Called by requests for each request; nobody here sets any of these but `stream`."""
        known = self._of_host(_host(str(url)))
        return {**known, "proxies": dict(known["proxies"]), "stream": stream}

    def _ask(self, host: str) -> dict[str, Any]:
        return dict(super().merge_environment_settings(host, proxies_for(host) or {}, None, None, None))


class _FromNetrc(AuthBase):
    """As requests has it by itself: from .netrc, else from the address."""

    def __init__(self) -> None:
        self._of_host = functools.lru_cache(_HOSTS_KNOWN)(get_netrc_auth)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        url = request.url or ""
        auth = self._of_host(_host(url)) or get_auth_from_url(url)
        return HTTPBasicAuth(*auth)(request) if any(auth) else request


def _host(url: str) -> str:
    """The address of a host: all that proxies and .netrc depend on."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/"
