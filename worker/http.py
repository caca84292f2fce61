"""How this worker speaks HTTP: sessions, the way to the loopback, and the cause of a failure in one line."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.util.retry import Retry

from worker.deadline import DeadlineAdapter

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
USER_AGENT = "amidiag-worker"

# requests takes None as: no proxy, whatever the environment says. Its types do not know that.
_NO_PROXY: dict[str, Any] = {"http": None, "https": None, "all": None}


def new_session(connections: int, retry: Retry | None = None) -> requests.Session:
    """A session that keeps up to `connections` open per host."""
    session = requests.Session()
    session.headers["User-Agent"] = USER_AGENT
    for scheme in ("http://", "https://"):
        adapter = DeadlineAdapter(pool_connections=4, pool_maxsize=connections, max_retries=retry or 0)
        session.mount(scheme, adapter)
    return session


def proxies_for(url: str) -> dict[str, Any] | None:
    """What to pass as `proxies`: a proxy of the environment is never asked for this machine itself."""
    host = urlsplit(url).hostname or ""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return dict(_NO_PROXY) if loopback else None


def cause(error: BaseException) -> str:
    """The innermost reason in a chain of requests' and urllib3's wrappers, in one line."""
    reason = innermost(error)
    text = " ".join(str(reason).split())
    return f"{type(reason).__name__}: {text}" if text else type(reason).__name__


def innermost(error: BaseException) -> BaseException:
    """The error at the bottom of requests' and urllib3's wrappers."""
    reason = error
    for _ in range(16):
        inner = getattr(reason, "reason", None) or reason.__cause__ or reason.__context__
        inner = inner or next((a for a in reason.args if isinstance(a, BaseException)), None)
        if not isinstance(inner, BaseException):
            break
        reason = inner
    return reason
