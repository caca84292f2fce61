"""Loading a network from a file of the user's: TorchScript or torch.export, checked before it is used."""

from __future__ import annotations

import hashlib
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from worker.pipelines.device import is_out_of_memory
from worker.pipelines.spec import ModelFile

Network = Callable[[Tensor], Any]

_ONLY_WEIGHTS = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


class ModelError(Exception):
    """A model file that cannot be used. Its text names the file; it is the user's to mend."""


class LoadedModel:
    """A network on its device, and how many inputs it takes at once.

    A file exported for a fixed number of inputs takes only that many: one, or (as torch.export writes a dynamic
    size by itself) two and more.
    """

    def __init__(self, network: Network, most: int, least: int) -> None:
        self._network = network
        self._least = least
        self.most = most

    @torch.inference_mode()
    def __call__(self, inputs: Tensor) -> Any:
        """The network's output for at most `most` inputs; what it was given more than that, to fill up, is cut."""
        count = inputs.shape[0]
        if count >= self._least:
            return self._network(inputs)
        filled = inputs.expand(self._least, *inputs.shape[1:]).contiguous() if count == 1 else inputs
        return self._network(filled)[:count]


def load_model(
    file: ModelFile, device: torch.device, batch_size: int, check: Callable[[Any, int], object]
) -> LoadedModel:
    """Read a network, put it onto `device` and try it with blank inputs, `batch_size` and one.

    `check` is given each output and the number of inputs that it is for; it raises ValueError where the output is
    not what it must be.

    Raises:
        ModelError: the file is not the one of the manifest, is no model, or its output is not as it must be.
    """
    with _opened(file.path) as stream:
        _check_sha256(file, stream)
        stream.seek(0)
        kind = _kind(file.path, stream)
        stream.seek(0)
        try:
            network = kind(stream, device)
        except Exception as e:
            if is_out_of_memory(e):
                raise
            raise ModelError(f"{file.path}: cannot be loaded: {_first_line(e)}") from e
    return _fitted(file, network, device, batch_size, check)


def _fitted(
    file: ModelFile,
    network: Network,
    device: torch.device,
    batch_size: int,
    check: Callable[[Any, int], object],
) -> LoadedModel:
    """Find out how many inputs the network takes at once, and check what it gives for them."""
    refused: dict[int, str] = {}
    for count in dict.fromkeys((1, 2, batch_size)):
        blank = torch.zeros((count, 3, file.height, file.width), device=device)
        try:
            with torch.inference_mode():
                output = network(blank)
        except Exception as e:
            if is_out_of_memory(e):
                raise
            refused[count] = _first_line(e)
            continue
        try:
            check(output, count)
        except ValueError as e:
            raise ModelError(f"{file.path}: {e}") from None
    if batch_size not in refused and 1 not in refused:
        return LoadedModel(network, batch_size, 1)
    if 1 not in refused:
        return LoadedModel(network, 1, 1)
    if batch_size > 1 and batch_size not in refused and 2 not in refused:
        return LoadedModel(network, batch_size, 2)
    raise ModelError(
        f"{file.path}: takes no input of (N, 3, {file.height}, {file.width}), neither with N = 1 nor with "
        f"N = {batch_size}: {refused[1]}"
    )


def _kind(path: Path, stream: IO[bytes]) -> Callable[[IO[bytes], torch.device], Network]:
    """By what is inside, since both kinds go by several suffixes."""
    try:
        names = zipfile.ZipFile(stream).namelist()
    except zipfile.BadZipFile:
        raise ModelError(f"{path}: neither TorchScript nor torch.export: not a zip file") from None
    if any(name.endswith("/constants.pkl") for name in names):
        return _torch_script
    if any("/data/aotinductor/" in name for name in names):
        raise ModelError(
            f"{path}: a compiled package of AOTInductor: save the program with torch.export.save"
        )
    if any("/data/constants/" in name and "_obj_" in name for name in names):
        raise ModelError(f"{path}: has pickled objects in it, which are not loaded; a model has tensors only")
    if any(name.endswith("/archive_format") or name == "serialized_exported_program.json" for name in names):
        return _exported
    if any(name.endswith("/data.pkl") for name in names):
        raise ModelError(
            f"{path}: a checkpoint of torch.save, weights without their program: save the model with "
            "torch.export.save or torch.jit.save"
        )
    raise ModelError(f"{path}: neither TorchScript nor torch.export")


def _torch_script(stream: IO[bytes], device: torch.device) -> Network:
    with warnings.catch_warnings():
        # torch ≥ 2.10 calls torch.jit.load deprecated; files of that kind are what users have.
        warnings.simplefilter("ignore", DeprecationWarning)
        module: nn.Module = torch.jit.load(stream, map_location=device)  # type: ignore[no-untyped-call]
    return _without_gradients(module.eval())


def _exported(stream: IO[bytes], device: torch.device) -> Network:
    with _no_pickles():
        program = torch.export.load(stream)
    # It has no evaluation mode: that was chosen when it was exported.
    module: nn.Module = _moved(program, device).module().to(device)
    return _without_gradients(module)


def _without_gradients(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        # ScriptModules cannot do it at once.
        parameter.requires_grad_(False)
    return module


def _moved(program: Any, device: torch.device) -> Any:
    if device.type == "cpu":
        return program
    try:
        # Tensors that the program makes by itself have their device written into it.
        from torch.export.passes import move_to_device_pass
    except ImportError:
        return program  # torch 2.5
    return move_to_device_pass(program, device)


@contextmanager
def _no_pickles() -> Iterator[None]:
    """torch.export.load unpickles whatever it finds (pytorch `deserialize_torch_artifact`); not with this."""
    before = os.environ.get(_ONLY_WEIGHTS)
    os.environ[_ONLY_WEIGHTS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ONLY_WEIGHTS]
        else:
            os.environ[_ONLY_WEIGHTS] = before


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as e:
        raise ModelError(f"{path}: cannot be read: {e.strerror}") from None


def _check_sha256(file: ModelFile, stream: IO[bytes]) -> None:
    if file.sha256 is None:
        return
    found = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    if found != file.sha256:
        raise ModelError(f"{file.path}: its sha256 is {found}, and not {file.sha256} as in its manifest")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
