"""Starting a worker from its settings, and telling the supervisor how it ended."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Sequence

import torch

from amidiag.target.status_page import StatusPage
from worker import exit_codes
from worker.antenna.client import AntennaClient
from worker.antenna.schemas import AntennaError, UnauthorizedError, UnavailableError
from worker.cpu import set_torch_threads
from worker.draining import Drain
from worker.ingest.loader import pins_memory
from worker.loop import Worker
from worker.pipelines import PIPELINES, Pipeline, describe, load_pipeline
from worker.reach import UnreachableError
from worker.settings import Problem, SettingsError, WorkerSettings, env_name, public

log = logging.getLogger(__name__)


def run(settings: WorkerSettings, max_polls: int | None = None) -> int:
    """Run one worker in this process. Returns its exit code.

    Raises:
        SettingsError: a pipeline that this worker does not have is asked for.
    """
    slugs = chosen_pipelines(settings)
    drain = Drain()
    drain.install()
    set_torch_threads(settings.num_workers)
    page = StatusPage.create(
        settings=public(settings, antenna_api_dataloader_pin_memory=pins_memory(settings))
    )
    if page.error is not None:
        log.warning("%s", page.error)
    client = client_for(settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    log.info(
        "worker %s: torch %s on %s, pipelines %s, server %s",
        os.getpid(),
        torch.__version__,
        device,
        ", ".join(slugs),
        client.base_url,
    )
    worker = Worker(
        settings,
        client=client,
        page=page,
        drain=drain,
        slugs=slugs,
        load=lambda slug: _load(slug, settings, device),
        device=device,
    )
    try:
        code = _ended(worker, settings, max_polls)
    finally:
        client.close()
        page.close()
    return code


def _ended(worker: Worker, settings: WorkerSettings, max_polls: int | None) -> int:
    """Run the loop and name the way in which it ended, each in one line."""
    try:
        worker.run(max_polls)
    except UnauthorizedError as e:
        log.error("%s", refused(e, settings))
        return exit_codes.REFUSED
    except (UnreachableError, UnavailableError) as e:
        log.error("server unreachable: %s: %s", settings.antenna_api_base_url, e)
        return exit_codes.UNREACHABLE
    except Exception:
        # The boundary of the process: whatever it is, the supervisor must be told.
        log.exception("internal error")
        return exit_codes.INTERNAL
    log.info("drained")
    return exit_codes.DRAINED


def refused(error: UnauthorizedError, settings: WorkerSettings) -> str:
    """What an operator needs to know about a 401 or 403."""
    token = "AMI_ANTENNA_API_AUTH_TOKEN"
    is_set = bool(settings.antenna_api_auth_token.get_secret_value())
    advice = f"is the token in {token} right?" if is_set else f"{token} is not set"
    return f"the server refused this worker: {error}: {advice}"


def client_for(settings: WorkerSettings) -> AntennaClient:
    """The client that the settings describe."""
    return AntennaClient(settings.antenna_api_base_url, settings.antenna_api_auth_token.get_secret_value())


def chosen_pipelines(settings: WorkerSettings) -> tuple[str, ...]:
    """The slugs to work for.

    Raises:
        SettingsError: one of them is not built in.
    """
    wanted = settings.pipeline_slugs
    unknown = [slug for slug in wanted if slug not in PIPELINES]
    if unknown:
        allowed = f"empty or some of {', '.join(PIPELINES)}"
        raise SettingsError([Problem(env_name("pipelines"), ",".join(wanted), allowed, ", ".join(unknown))])
    return wanted or tuple(PIPELINES)


def register(settings: WorkerSettings, projects: Sequence[int]) -> Iterable[str]:
    """Register the chosen pipelines with `projects`, or with all that the server lists.

    Yields one line per project.

    Raises:
        AntennaError: a call failed; the projects named before it are registered.
        SettingsError: as `chosen_pipelines`.
    """
    described = [describe(slug) for slug in chosen_pipelines(settings)]
    name = service_name(settings)
    client = client_for(settings)
    try:
        ids = list(projects) or [p.id for p in client.projects()]
        for project in ids:
            answer = client.register(project, name, described)
            created, updated = (answer.get(f"pipelines_{what}") or [] for what in ("created", "updated"))
            yield f"project {project}: {_listed(created)} created, {_listed(updated)} updated, as {name}"
        if not ids:
            yield "the server lists no project for this token: nothing registered"
    finally:
        client.close()


def registration_failed(error: AntennaError, settings: WorkerSettings) -> tuple[int, str]:
    """Exit code and line for a registration that a call has ended."""
    if isinstance(error, UnauthorizedError):
        return exit_codes.REFUSED, refused(error, settings)
    if isinstance(error, UnavailableError):
        return exit_codes.UNREACHABLE, f"server unreachable: {settings.antenna_api_base_url}: {error}"
    return exit_codes.INTERNAL, f"the server did not register the pipelines: {error}"


def service_name(settings: WorkerSettings) -> str:
    """`NAME (hostname)`, as the public worker names itself."""
    return f"{settings.antenna_service_name} ({socket.gethostname()})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(str(n) for n in names) or "none"


def _load(slug: str, settings: WorkerSettings, device: torch.device) -> Pipeline:
    log.info("loading the pipeline %s", slug)
    return load_pipeline(
        slug,
        device=device,
        localization_batch_size=settings.localization_batch_size,
        classification_batch_size=settings.classification_batch_size,
        classification_threshold=settings.classification_threshold,
    )
