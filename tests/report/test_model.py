"""The package of data classes: whatever its modules define can be had from `amidiag.model`."""

from __future__ import annotations

import dataclasses
import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

from amidiag import model

MODULES = [import_module(f"amidiag.model.{module.name}") for module in pkgutil.iter_modules(model.__path__)]


def test_every_class_of_every_module_has_its_name_in_the_package() -> None:
    defined = {
        name
        for module in MODULES
        for name, value in vars(module).items()
        if dataclasses.is_dataclass(value) and value.__module__ == module.__name__
    }
    assert len(defined) > 40
    assert defined <= set(dir(model))


def test_every_name_leads_to_what_its_module_defines() -> None:
    for name in dir(model):
        value = getattr(model, name)
        assert any(vars(module).get(name) is value for module in MODULES)


def test_another_name_is_an_error_as_in_any_module() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        model.__getattr__("Nothing")  # type: ignore[attr-defined, unused-ignore]


def test_only_what_is_asked_for_is_made() -> None:
    asked = "import sys; from amidiag.model import Identity; print('amidiag.model.soak' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", asked], text=True) == "False\n"
