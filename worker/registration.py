"""Registering the worker's pipelines with projects of the Antenna server.

Importing this module does not import torch.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence

from worker import exit_codes
from worker.antenna.client import AntennaClient, call_limit_s
from worker.antenna.schemas import AntennaError, RefusedContentError, UnauthorizedError, UnavailableError
from worker.exhaustion import behind
from worker.pipelines.shelf import chosen_pipelines
from worker.reach import ADDRESS_HINT
from worker.settings import WorkerSettings


def register(settings: WorkerSettings, projects: Sequence[int]) -> Iterable[str]:
    """Register the chosen pipelines with `projects`, or with all that the server lists.

    Model files are looked for, but not loaded: this may run where there is no accelerator.

    Yields one line per project.

    Raises:
        AntennaError: a call failed; the projects named before it are registered.
        SettingsError: as `chosen_pipelines`.
    """
    described = [spec.to_api() for spec in chosen_pipelines(settings).values()]
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


def call_failed(error: AntennaError, settings: WorkerSettings) -> tuple[int, str]:
    """Exit code and line for a call of the API that has ended a command."""
    url = settings.antenna_api_base_url
    if isinstance(error, UnauthorizedError):
        return exit_codes.REFUSED, refused(error, settings)
    if (missing := behind(error)) is not None:
        return exit_codes.INTERNAL, f"{missing}: {error}"
    if isinstance(error, UnavailableError):
        return exit_codes.UNREACHABLE, f"server unreachable: {url}: {error}"
    if isinstance(error, RefusedContentError):
        return exit_codes.INTERNAL, f"the server did not take what was sent: {error}"
    return exit_codes.UNREACHABLE, f"no usable answer from {url}: {error}: {ADDRESS_HINT}"


def refused(error: UnauthorizedError, settings: WorkerSettings) -> str:
    """What an operator needs to know about a 401 or 403."""
    token = "AMI_ANTENNA_API_AUTH_TOKEN"
    is_set = bool(settings.antenna_api_auth_token.get_secret_value())
    advice = f"is the token in {token} right?" if is_set else f"{token} is not set"
    return f"the server refused this worker: {error}: {advice}"


def client_for(settings: WorkerSettings) -> AntennaClient:
    """The client that the settings describe."""
    return AntennaClient(
        settings.antenna_api_base_url,
        settings.antenna_api_auth_token.get_secret_value(),
        limit_s=call_limit_s(settings.visibility_timeout_s),
    )


def service_name(settings: WorkerSettings) -> str:
    """`NAME (hostname)`, as the public worker names itself."""
    return f"{settings.antenna_service_name} ({socket.gethostname()})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(str(n) for n in names) or "none"
