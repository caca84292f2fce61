"""What became of a job: answered once each, or which images were not."""

from __future__ import annotations

from dataclasses import dataclass

from amidiag.soak.antenna import AntennaServer


@dataclass(frozen=True, slots=True)
class Outcome:
    """Images of a job, counted. `errors`: answered by an error that the image does not deserve.

    `lost` were given up by the queue and not answered later; `open` are neither answered nor given up.
    """

    images: int = 0
    once: int = 0
    twice: int = 0
    lost: int = 0
    open: int = 0
    errors: int = 0
    redelivered: int = 0
    said: tuple[str, ...] = ()

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            *(
                getattr(self, name) + getattr(other, name)
                for name in ("images", "once", "twice", "lost", "open", "errors", "redelivered", "said")
            )
        )

    @property
    def good(self) -> bool:
        """Every image was answered once, and none as an error for nothing."""
        return self.once == self.images and not self.errors

    @property
    def words(self) -> str:
        """For people: "20 images: 18 answered once, 2 lost"."""
        counts = (
            (self.lost, "lost"),
            (self.open, "still open"),
            (self.twice, "answered twice"),
            (self.errors, "intact and answered as an error"),
            (self.redelivered, "handed out again"),
        )
        said = "".join(f", {count} {what}" for count, what in counts if count)
        quoted = "".join(f" ({text})" for text in self.said)
        once = "all answered once" if self.once == self.images else f"{self.once} answered once"
        return f"{self.images} images: {once}{said}{quoted}"


def outcome(server: AntennaServer, job_id: int) -> Outcome:
    """Ask the server. `said` are the texts of undeserved errors, each once."""
    stories = server.stories(job_id)
    answers = server.answers(job_id)
    undeserved = [
        str((answer.result or {})["error"])
        for answer in answers
        if answer.result is not None and "error" in answer.result and answer.spec.broken is None
    ]
    return Outcome(
        images=len(stories),
        once=sum(story.answers == 1 for story in stories),
        twice=sum(story.answers > 1 for story in stories),
        lost=sum(story.fate == "lost" for story in stories),
        open=sum(story.fate in ("waiting", "reserved") for story in stories),
        errors=len(undeserved),
        redelivered=sum(len(story.deliveries) > 1 for story in stories),
        said=tuple(dict.fromkeys(undeserved)),
    )
