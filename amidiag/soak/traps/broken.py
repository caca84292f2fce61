"""Bytes that pretend to be an image and are none."""

from __future__ import annotations

import numpy as np

from amidiag.soak.traps.spec import Broken

_HTML = b"""<!DOCTYPE html>
<html><head><title>502 Bad Gateway</title></head>
<body><center><h1>502 Bad Gateway</h1></center><hr><center>nginx</center></body></html>
"""


def spoil(data: bytes, content_type: str, broken: Broken, seed: int) -> tuple[bytes, str]:
    """What a server sends when the image in `data` went wrong on the way: (bytes, content type).

    `truncated` ends within the pixel data, `html` is a proxy's error page with its own type,
    `not_an_image` is binary rubbish under the image's type.
    """
    if broken == "truncated":
        return data[: max(len(data) * 2 // 5, 64)], content_type
    if broken == "empty":
        return b"", content_type
    if broken == "html":
        return _HTML, "text/html; charset=utf-8"
    rubbish = np.random.default_rng([seed, 5]).bytes(4096)
    return b"\x00\x01NOT AN IMAGE\x00" + rubbish, content_type
