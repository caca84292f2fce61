"""Acting on a module right after it is imported, whenever that will be. Nothing is imported for it.

Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import sys
from _thread import get_ident

from .blame import take_out_our_frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    Act = Callable[[ModuleType], None]
    Guarded = Callable[[Act, ModuleType], None]


class LateImports:
    """A finder (sys.meta_path) that finds nothing itself and sees the wanted modules come."""

    def __init__(self, wanted: Mapping[str, Act], guarded: Guarded) -> None:
        """`guarded` calls an act with its module, so that its errors do not reach the program."""
        self._wanted = dict(wanted)
        self._guarded = guarded
        # (name, thread): another thread may look for the same one.
        self._busy: set[tuple[str, int]] = set()

    def begin(self) -> None:
        """Act on what is there, and from now on on what comes."""
        for name, act in self._wanted.items():
            module = sys.modules.get(name)
            if module is not None:
                self._guarded(act, module)
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
        me = (name, get_ident())
        if act is None or me in self._busy:
            return None
        self._busy.add(me)
        try:
            return self._found(name, path, target, act)
        finally:
            self._busy.discard(me)

    def _found(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None, act: Act
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            # Finders of the old kind have none; they are asked when we have found nothing.
            find_spec = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find_spec is None else find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, act, self._guarded)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """A module's own loader, and one step more."""

    def __init__(self, loader: Any, act: Act, guarded: Guarded) -> None:
        self._loader = loader
        self._act = act
        self._guarded = guarded

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._loader)

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
        try:
            self._loader.exec_module(module)
        except BaseException as error:
            take_out_our_frames(error)
            raise
        self._guarded(self._act, module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
