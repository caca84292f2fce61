"""Starting a worker from its settings, and telling the supervisor how it ended."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import torch

from amidiag.target.status_page import StatusPage
from worker import exit_codes
from worker.antenna.schemas import UnauthorizedError, UnavailableError
from worker.cpu import set_torch_threads
from worker.draining import Drain
from worker.ingest.loader import pins_memory
from worker.instances import listen_to_parent
from worker.loop import Worker
from worker.pipelines import Pipeline
from worker.pipelines.device import DeviceError
from worker.pipelines.model_file import ModelError
from worker.pipelines.pipeline import build
from worker.pipelines.resident import ResidentPipelines
from worker.pipelines.shelf import chosen_pipelines
from worker.pipelines.spec import PipelineSpec
from worker.reach import UnreachableError
from worker.registration import client_for, refused
from worker.settings import WorkerSettings, public

log = logging.getLogger(__name__)


def run(settings: WorkerSettings, max_polls: int | None = None) -> int:
    """Run one worker in this process. Returns its exit code.

    Raises:
        SettingsError: a pipeline that this worker does not have is asked for, or a manifest is wrong.
    """
    specs = chosen_pipelines(settings)
    drain = Drain()
    drain.install()
    listen_to_parent(drain)
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
        ", ".join(specs),
        client.base_url,
    )
    resident = ResidentPipelines(
        lambda slug: load(specs[slug], settings, device), settings.max_resident_pipelines
    )
    worker = Worker(
        settings,
        client=client,
        page=page,
        drain=drain,
        slugs=tuple(specs),
        load=resident.get,
        device=device,
    )
    try:
        code = _checked(specs, resident) or _ended(worker, settings, max_polls)
    finally:
        client.close()
        page.close()
    return code


def _checked(specs: Mapping[str, PipelineSpec], resident: ResidentPipelines) -> int:
    """Load the user's own pipelines before a task is taken that a broken one would cost. Returns an exit code."""
    for slug, spec in specs.items():
        if spec.files:
            try:
                resident.get(slug)
            except ModelError as e:
                log.error("%s: %s", slug, e)
                return exit_codes.BAD_SETTINGS
    return exit_codes.DRAINED


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
    except ModelError as e:
        log.error("%s", e)
        return exit_codes.BAD_SETTINGS
    except DeviceError as e:
        log.error("%s; a new process is needed, unanswered tasks are left to the server's redelivery", e)
        return exit_codes.INTERNAL
    except Exception:
        # The boundary of the process: whatever it is, the supervisor must be told.
        log.exception("internal error")
        return exit_codes.INTERNAL
    log.info("drained")
    return exit_codes.DRAINED


def load(spec: PipelineSpec, settings: WorkerSettings, device: torch.device) -> Pipeline:
    """A pipeline onto `device`, with the batch sizes and the threshold of the settings.

    Raises:
        ModelError: a file of the user's cannot be used.
    """
    log.info("loading the pipeline %s", spec.slug)
    return build(
        spec,
        device=device,
        localization_batch_size=settings.localization_batch_size,
        classification_batch_size=settings.classification_batch_size,
        classification_threshold=settings.classification_threshold,
    )
