"""What a service tells systemd: sd_notify(3), where NOTIFY_SOCKET asks for it."""

from __future__ import annotations


class Notifier:
    """Says nothing where nobody listens. No method raises or blocks."""

    def ready(self) -> None:
        """The service is up."""

    def alive(self) -> None:
        """It gets on (WATCHDOG=1); said as often as systemd wants it, however often this is called."""

    def stopping(self) -> None:
        """It is about to end."""

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
