"""`ami worker run | register | settings | tune`. Only what a command needs is imported when it runs."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from worker import exit_codes, logs
from worker.cpu import wait_passively

if TYPE_CHECKING:
    from amidiag.model import SettingsData, TuneData
    from worker.settings import Loaded, SettingsError, WorkerSettings

LOG_LEVELS = ("debug", "info", "warning", "error")

app = typer.Typer(
    name="ami",
    help="The worker for an Antenna queue of camera-trap images.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
worker_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Take images from the queue and work on them."
)
app.add_typer(worker_app, name="worker")

EnvFile = Annotated[
    Path | None,
    typer.Option("--env-file", help="File with settings; default: .env in this directory, if any."),
]
LogLevel = Annotated[str, typer.Option("--log-level", help=f"One of {', '.join(LOG_LEVELS)}.")]


@app.callback()
def ami() -> None:
    """The worker for an Antenna queue of camera-trap images."""


@worker_app.command("run")
def run_command(
    max_polls: Annotated[
        int | None, typer.Option("--max-polls", min=1, help="End after this many polls; default: never.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="The same as --max-polls 1.")] = False,
    env_file: EnvFile = None,
    log_level: LogLevel = "info",
) -> None:
    """Poll for jobs, work on their images, post the results; until SIGTERM, SIGINT or SIGUSR1.

    \b
    Examples:
      ami worker run
      ami worker run --env-file /etc/ami-worker/worker.env
      AMI_PIPELINES=moth_binary ami worker run --once

    Exit codes: 0 drained as told, 69 server unreachable for too long, 70 internal error or hang, 75 drained, and
    a new process is wanted, 77 refused by the server (401 or 403), 78 bad settings or model files. Of several
    workers (AMI_INSTANCES) the highest counts.
    """
    _log_to_stderr(log_level)
    from importlib import metadata

    from worker.draining import SIGNALS, end_at_once

    for number in SIGNALS:
        signal.signal(number, end_at_once)
    loaded = _read_or_exit(env_file)
    token = loaded.settings.antenna_api_auth_token.get_secret_value()
    logs.to_stderr(log_level, loaded.settings.worker_log_format, secrets=[token])
    from worker.settings_report import in_effect

    _say_remarks(loaded)
    logging.getLogger(__name__).info("amidiag %s, %s", metadata.version("amidiag"), in_effect(loaded))
    _start_several(loaded.settings, ends_by_itself=once or max_polls is not None)
    if loaded.settings.diag_trace:
        _trace()
    wait_passively()
    from worker import service
    from worker.settings import SettingsError

    try:
        code = service.run(loaded.settings, max_polls=1 if once else max_polls)
    except SettingsError as e:
        _bad_settings(e)
    raise typer.Exit(code)


@worker_app.command("register")
def register_command(
    project: Annotated[
        list[int] | None, typer.Option("--project", help="Project id; may be repeated. Default: all listed.")
    ] = None,
    env_file: EnvFile = None,
    log_level: LogLevel = "info",
) -> None:
    """Register this worker's pipelines with projects of the Antenna server.

    Exit codes: 0 registered, 69 no usable answer from the server, 70 internal error, 77 refused by the server
    (401 or 403), 78 bad settings.
    """
    _log_to_stderr(log_level)
    loaded = _read_or_exit(env_file)
    _say_remarks(loaded)
    from worker import registration
    from worker.antenna.schemas import AntennaError
    from worker.settings import SettingsError

    try:
        for line in registration.register(loaded.settings, project or []):
            print(line)
    except SettingsError as e:
        _bad_settings(e)
    except AntennaError as e:
        code, text = registration.call_failed(e, loaded.settings)
        _fail(code, text)


@worker_app.command("settings")
def settings_command(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
    env_example: Annotated[
        bool, typer.Option("--env-example", help="Print the text of .env.example instead.")
    ] = False,
    env_file: EnvFile = None,
) -> None:
    """Show every setting: its value, where it comes from, what it means, what is allowed."""
    from worker import settings_report
    from worker.settings import SettingsError, read

    if env_example:
        print(settings_report.env_example(), end="")
        return
    try:
        loaded = read(env_file)
    except SettingsError as e:
        if as_json:
            from amidiag.model import SettingProblem, SettingsData

            problems = tuple(SettingProblem(p.setting, p.value, p.allowed, p.source) for p in e.problems)
            _print_envelope(SettingsData(problems=problems), exit_codes.BAD_SETTINGS)
        _bad_settings(e)
    if as_json:
        _print_envelope(settings_report.data(loaded), exit_codes.DRAINED)
        return
    print(settings_report.table(loaded))
    _say_remarks(loaded)


TUNE_HELP = """\
Measure a few real tasks and recommend settings, with the memory that they will take.

The tasks are worked on as `ami worker run` does, and answered: none is lost.

Examples:

  ami worker tune                         tasks of any job that waits

  ami worker tune --job 12                tasks of one job

  ami worker tune --pipeline moth_binary --write .env

Exit codes: 0 done, or no task to measure; 69 server unreachable, 70 internal error, 77 refused by the server
(401 or 403), 78 bad settings or model files."""


@worker_app.command("tune", help=TUNE_HELP)
def tune_command(
    job: Annotated[
        int | None, typer.Option("--job", min=1, help="Job id; default: any that has tasks.")
    ] = None,
    pipeline: Annotated[str | None, typer.Option("--pipeline", help="Only jobs of this pipeline.")] = None,
    tasks: Annotated[int, typer.Option("--tasks", min=1, max=64, help="How many tasks to work on.")] = 8,
    write: Annotated[
        Path | None, typer.Option("--write", help="Put what is to be changed into this .env file.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
    env_file: EnvFile = None,
    log_level: LogLevel = "warning",
) -> None:
    _log_to_stderr(log_level)
    loaded = _read_or_exit(env_file)
    _say_remarks(loaded)
    wait_passively()
    from worker import tune, tune_report
    from worker.settings import SettingsError

    if write is not None and (write.is_dir() or not write.parent.is_dir()):
        why = "it is a directory" if write.is_dir() else f"there is no directory {write.parent}"
        _fail(exit_codes.BAD_SETTINGS, f"--write={write}: cannot be written: {why}")
    try:
        data, missing = tune.tune(loaded, job=job, pipeline=pipeline, tasks=tasks)
        if write is not None and missing is None:
            data = tune.write(data, write)
    except SettingsError as e:
        _bad_settings(e)
    except tune.FAILURES as e:
        _fail(*tune.failed(e, loaded.settings))
    if missing is not None:
        unwritten = f", and {write} is not written" if write is not None else ""
        print(f"ami: {missing}: nothing is recommended{unwritten}", file=sys.stderr)
    if as_json:
        _print_envelope(data, exit_codes.DRAINED, command="worker tune")
    else:
        print(tune_report.text(data))


def run() -> None:
    """The entry point of the command `ami`."""
    try:
        app(prog_name="ami")
    except Exception as e:
        missing = e.name if isinstance(e, ModuleNotFoundError) else None
        if missing is not None and missing.split(".")[0] not in ("amidiag", "worker"):
            _fail_now(f"the worker needs {missing}, which is not installed: pip install 'amidiag[worker]'")
        # A torch whose libraries do not load raises OSError or ImportError: Python's own code would be 1.
        logging.getLogger(__name__).exception("internal error")
        sys.exit(exit_codes.INTERNAL)


def _start_several(settings: WorkerSettings, *, ends_by_itself: bool) -> None:
    """Where several workers are wanted this process becomes their parent, and ends with them."""
    from worker import instances
    from worker.pipelines.shelf import chosen_pipelines
    from worker.settings import SettingsError

    planned = instances.plan(settings, instances.gpus())
    if len(planned) == 1:
        return
    try:
        # Said once, and not by each of them.
        chosen_pipelines(settings)
    except SettingsError as e:
        _bad_settings(e)
    raise typer.Exit(instances.supervise(planned, settings, ends_by_itself=ends_by_itself))


def _trace() -> None:
    """Before torch is imported: what it opens is seen too."""
    from amidiag.target import tracer

    error = tracer.install().error
    if error is not None:
        logging.getLogger(__name__).warning("tracing is off: %s", error)


def _log_to_stderr(level: str) -> None:
    if level.lower() not in LOG_LEVELS:
        raise typer.BadParameter(
            f"{level!r}: must be one of {', '.join(LOG_LEVELS)}", param_hint="--log-level"
        )
    logs.to_stderr(level)


def _read_or_exit(env_file: Path | None) -> Loaded:
    from worker.settings import SettingsError, read

    try:
        return read(env_file)
    except SettingsError as e:
        _bad_settings(e)


def _say_remarks(loaded: Loaded) -> None:
    from worker.settings_report import remarks

    for line in remarks(loaded):
        logs.say(line)


def _bad_settings(error: SettingsError) -> NoReturn:
    for problem in error.problems:
        logs.say(f"bad setting: {problem}", logging.ERROR)
    for unknown in error.unknown:
        logs.say(str(unknown))
    raise typer.Exit(exit_codes.BAD_SETTINGS)


def _fail(code: int, text: str) -> NoReturn:
    logs.say(text, logging.ERROR)
    raise typer.Exit(code)


def _fail_now(text: str) -> NoReturn:
    logs.say(text, logging.ERROR)
    sys.exit(exit_codes.BAD_SETTINGS)


def _print_envelope(data: SettingsData | TuneData, code: int, *, command: str = "worker settings") -> None:
    from amidiag.model import Envelope

    envelope = Envelope(
        command=command,
        generated_at=datetime.now(UTC).isoformat(timespec="seconds"),
        host=socket.gethostname(),
        exit_code=code,
        data=data,
    )
    value = dataclasses.asdict(envelope)
    print(json.dumps({"schema": value.pop("schema"), **value}, indent=1, ensure_ascii=False))
