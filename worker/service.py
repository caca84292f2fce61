"""Starting a worker from its settings, and telling the supervisor how it ended."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping

import torch

from amidiag.target.status_page import StatusPage
from worker import exit_codes
from worker.antenna.schemas import UnauthorizedError, UnavailableError
from worker.cpu import set_torch_threads
from worker.draining import Drain
from worker.exhaustion import ExhaustedError
from worker.guard.leaving import leave_within
from worker.guard.watchdog import Watchdog
from worker.ingest.loader import pins_memory
from worker.instances import listen_to_parent
from worker.loop import MODELS_LIMIT_S, Worker
from worker.metrics import served
from worker.pipelines import Pipeline
from worker.pipelines.device import DeviceError, device_error, is_out_of_memory
from worker.pipelines.model_file import ModelError
from worker.pipelines.pipeline import build
from worker.pipelines.resident import ResidentPipelines
from worker.pipelines.shelf import chosen_pipelines
from worker.pipelines.spec import PipelineSpec
from worker.reach import UnreachableError
from worker.registration import client_for, refused
from worker.settings import SettingsError, WorkerSettings, public
from worker.systemd import Notifier

log = logging.getLogger(__name__)


def run(settings: WorkerSettings, max_polls: int | None = None) -> int:
    """Run one worker in this process. Returns its exit code.

    Raises:
        SettingsError: a pipeline that this worker does not have is asked for, or a manifest is wrong.
    """
    specs = chosen_pipelines(settings)
    drain = Drain()
    drain.install()
    # Before any process is started, which would have its variables too.
    notifier = Notifier(lambda: drain.requested)
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

    def hung(what: str) -> None:
        notifier.status(f"hangs: {what}")
        page.health(False, f"hangs: {what}")
        if worker is not None:
            worker.keep()

    worker: Worker | None = None
    watchdog = Watchdog(settings.watchdog_s, alive=notifier.alive, on_hang=hung)

    def work() -> str | None:
        nonlocal worker
        watchdog.at("loading models", MODELS_LIMIT_S + settings.watchdog_s)
        _try_models(specs, resident)
        worker = Worker(
            settings,
            client=client,
            page=page,
            drain=drain,
            slugs=tuple(specs),
            load=resident.get,
            device=device,
            watchdog=watchdog,
            say=notifier.status,
        )
        notifier.ready()
        return worker.run(max_polls)

    watchdog.start()
    try:
        with served(settings, page, lambda: worker.spool_directory if worker else None):
            code = _ended(work, settings)
    finally:
        notifier.stopping()
        watchdog.stop()
        client.close()
        page.close()
    leave_within(code)
    return code


def _ended(work: Callable[[], str | None], settings: WorkerSettings) -> int:
    """Do the work and name the way in which it ended, each in one line."""
    try:
        recycle = work()
    except SettingsError:
        raise
    except UnauthorizedError as e:
        log.error("%s", refused(e, settings))
        return exit_codes.REFUSED
    except (UnreachableError, UnavailableError) as e:
        log.error("server unreachable: %s: %s", settings.antenna_api_base_url, e)
        return exit_codes.UNREACHABLE
    except ModelError as e:
        log.error("bad model file: %s", e)
        return exit_codes.BAD_SETTINGS
    except Exception as e:
        # The boundary of the process: whatever it is, the supervisor must be told.
        gone = e if isinstance(e, DeviceError | ExhaustedError) else device_error(e)
        if gone is not None:
            log.error("%s; a new process is needed, unanswered tasks are left to redelivery", gone)
        elif is_out_of_memory(e):
            log.error("too little memory on the device for a pipeline alone: %s", e)
        else:
            log.exception("internal error")
        return exit_codes.INTERNAL
    if recycle is not None:
        log.info("drained, to be replaced: %s", recycle)
        return exit_codes.RECYCLE
    log.info("drained")
    return exit_codes.DRAINED


def _try_models(specs: Mapping[str, PipelineSpec], resident: ResidentPipelines) -> None:
    """Load the user's own pipelines before the first poll: a broken one would cost the tasks of every start."""
    for slug, spec in specs.items():
        if spec.files:
            resident.get(slug)


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
