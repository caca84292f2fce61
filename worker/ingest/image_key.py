"""By what an image is known when it comes again."""

from __future__ import annotations

import re

from worker.antenna.schemas import Task


def image_key(task: Task) -> str:
    """The image's id and its address without query: a signature that is made anew for each delivery changes nothing."""
    return f"{re.split(r'[?#]', task.image_url, maxsplit=1)[0]}\0{task.image_id}"
