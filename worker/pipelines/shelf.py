"""Which pipelines this worker has: the built-in ones, and those of the user's directory.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from worker.pipelines.catalogue import BUILT_IN
from worker.pipelines.detection import Algorithm
from worker.pipelines.manifest import MANIFEST, ManifestProblem, read_manifest, slug_problem
from worker.pipelines.spec import PipelineSpec
from worker.settings import Problem, SettingsError, WorkerSettings, env_name


def pipelines(settings: WorkerSettings) -> Mapping[str, PipelineSpec]:
    """Every pipeline by its slug, the built-in ones first, then the user's in the order of their folders.

    Raises:
        SettingsError: `AMI_MODELS_DIR` cannot be used; one problem for each mistake in it.
    """
    if not settings.models_dir:
        return BUILT_IN
    found = dict(BUILT_IN)
    known = {algorithm.key: algorithm for spec in BUILT_IN.values() for algorithm in spec.algorithms}
    problems: list[Problem] = []
    for folder in _folders(settings.models_dir):
        try:
            spec = read_manifest(folder / MANIFEST)
        except SettingsError as e:
            problems.extend(e.problems)
            continue
        clashes = _clashes(spec, found, known)
        problems.extend(clashes)
        if not clashes:
            found[spec.slug] = spec
            known |= {algorithm.key: algorithm for algorithm in spec.algorithms}
    if problems:
        raise SettingsError(problems)
    return found


def chosen_pipelines(settings: WorkerSettings) -> Mapping[str, PipelineSpec]:
    """The pipelines to work for, by their slugs: those that `AMI_PIPELINES` names, else all.

    Raises:
        SettingsError: this worker does not have one of them, or `AMI_MODELS_DIR` cannot be used.
    """
    known = pipelines(settings)
    wanted = settings.pipeline_slugs
    unknown = [slug for slug in wanted if slug not in known]
    if unknown:
        allowed = f"empty or some of {', '.join(known)}"
        raise SettingsError([Problem(env_name("pipelines"), ",".join(wanted), allowed, ", ".join(unknown))])
    return {slug: known[slug] for slug in wanted or known}


def _folders(models_dir: str) -> list[Path]:
    directory = Path(models_dir).expanduser()
    try:
        folders = sorted(d for d in directory.iterdir() if d.is_dir() and not d.name.startswith("."))
    except OSError as e:
        raise SettingsError(
            [Problem(env_name("models_dir"), models_dir, "a directory that can be read", str(e.strerror))]
        ) from None
    if not folders:
        allowed = f"a directory with a folder for each pipeline, {MANIFEST} in it"
        raise SettingsError([Problem(env_name("models_dir"), models_dir, allowed, "there is none in it")])
    return folders


def _clashes(
    spec: PipelineSpec, found: Mapping[str, PipelineSpec], known: Mapping[str, Algorithm]
) -> list[ManifestProblem]:
    """A slug that is taken, and algorithms that the server could not tell from others."""
    problems = []
    if spec.slug in found:
        by = found[spec.slug].manifest
        problems.append(slug_problem(spec, f"{spec.slug!r} is taken by {by or 'a built-in pipeline'}"))
    for algorithm in spec.algorithms:
        if known.get(algorithm.key, algorithm) != algorithm:
            what = f"its algorithm {algorithm.key!r} differs from another pipeline's of that key"
            problems.append(slug_problem(spec, what))
    return problems
