"""How the worker's log is written: lines of text, or of JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

FORMAT_VARIABLE = "AMI_WORKER_LOG_FORMAT"
"""Looked up before there are settings: what is wrong with them is said in the format that was asked for."""

# A shorter one would make holes in every word.
_SHORTEST_SECRET = 4
_MASK = "***"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

log = logging.getLogger("ami")


def to_stderr(level: str, log_format: str | None = None, secrets: Collection[str] = ()) -> None:
    """Write the log of this process to standard error, as `text` or as `json`, one object a line.

    `log_format` None: as the environment says, for what is said before the settings are read. None of `secrets`
    ever appears: each is replaced wherever it occurs, in messages, fields and tracebacks.
    """
    as_json = (log_format or os.environ.get(FORMAT_VARIABLE, "").strip()) == "json"
    hidden = tuple(secret for secret in secrets if len(secret) >= _SHORTEST_SECRET)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(hidden) if as_json else _Text(hidden))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # torch warns once per loader about pinning without an accelerator: into the log with it, not past it.
    logging.captureWarnings(capture=True)
    if as_json:
        _log_what_nobody_catches()


def say(text: str, level: int = logging.WARNING) -> None:
    """One line to the user of the command, in the log where that is JSON: no line there is anything else."""
    if any(isinstance(handler.formatter, _Json) for handler in logging.getLogger().handlers):
        log.log(level, "%s", text)
    else:
        sys.stderr.write(f"ami: {text}\n")


class _Text(logging.Formatter):
    def __init__(self, secrets: Collection[str]) -> None:
        # Of several workers that write to one place each line says whose it is.
        whose = "[%(process)d] " if "AMIDIAG_PARENT_FD" in os.environ else ""
        super().__init__(f"%(asctime)s {whose}%(levelname)-7s %(name)s: %(message)s")
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        try:
            text = super().format(record)
        except Exception as e:  # noqa: BLE001 - as below
            text = super().format(_instead_of(record, e))
        return _masked(text, self._secrets)


class _Json(logging.Formatter):
    """time, level, logger, message, pid; exception and stack where there are any; then what `extra` gave."""

    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        try:
            return self._line(record)
        except Exception as e:  # noqa: BLE001 - whatever a stranger's object does when it is shown
            return self._line(_instead_of(record, e))

    def _line(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        # Masked before JSON escapes what is in a token.
        return json.dumps(
            _without(fields | {k: v for k, v in extra.items() if k not in fields}, self._secrets)
        )


def _instead_of(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """For a line that cannot be written. Python would print it in many, with arguments that are not masked."""
    message = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
    said = f"a line of the log could not be written ({type(error).__name__}): {message}"
    return logging.LogRecord(record.name, record.levelno, record.pathname, record.lineno, said, None, None)


def _without(value: Any, secrets: Collection[str]) -> Any:
    """`value` as JSON can have it, with the secrets masked in every text of it."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        # NaN and the infinities are no JSON.
        return value if value - value == 0 else str(value)
    if isinstance(value, Mapping):
        return {_masked(str(key), secrets): _without(one, secrets) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without(one, secrets) for one in value]
    return _masked(str(value), secrets)


def _masked(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, _MASK)
    return text


def _log_what_nobody_catches() -> None:
    """Python would print these as tracebacks of many lines."""

    def of_program(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            log.error("interrupted")
        else:
            log.critical("uncaught exception", exc_info=(kind, error, trace))

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
            name = args.thread.name if args.thread is not None else "unknown"
            log.critical(
                "uncaught exception in the thread %s",
                name,
                exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
            )

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        error = args.exc_value
        info = (args.exc_type, error, args.exc_traceback) if error is not None else None
        log.error("%s: %r", args.err_msg or "exception ignored in", args.object, exc_info=info)

    sys.excepthook = of_program
    threading.excepthook = of_thread
    sys.unraisablehook = unraisable
