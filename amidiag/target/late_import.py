"""Acting on a module right after it is imported, whenever that will be. Nothing is imported for it.

Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Act = Callable[[ModuleType], None]


class LateImports:
    """A finder (sys.meta_path) that finds nothing itself and sees the wanted modules come."""

    def __init__(self, wanted: Mapping[str, Act]) -> None:
        self._wanted = dict(wanted)
        self._busy: set[str] = set()

    def begin(self) -> None:
        """Act on what is there, and from now on on what comes."""
        for name, act in self._wanted.items():
            module = sys.modules.get(name)
            if module is not None:
                act(module)
        sys.meta_path.insert(0, self)

    def end(self) -> None:
        """Look no more."""
        self._wanted.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find, with our step after it (importlib.abc.MetaPathFinder)."""
        act = self._wanted.get(name)
        if act is None or name in self._busy:
            return None
        self._busy.add(name)
        try:
            for finder in sys.meta_path:
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                        spec.loader = _Loader(spec.loader, act)  # type: ignore[assignment]
                    return spec
            return None
        finally:
            self._busy.discard(name)


class _Loader:
    """A module's own loader, and one step more."""

    def __init__(self, loader: Any, act: Act) -> None:
        self._loader = loader
        self._act = act

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        spec.loader = self._loader
        module: ModuleType | None = self._loader.create_module(spec)
        spec.loader = self  # type: ignore[assignment]
        return module

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module is as it would be without us.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._act(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
