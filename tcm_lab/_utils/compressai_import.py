"""Imports CompressAI without what takes nine tenths of its import time and is of no use here.

Its registry of transforms imports torchvision and torch_geometric, which import torch's compiler.
Nothing here transforms images or point clouds by them, and a registry build of torchvision can't
even be imported beside a CPU-only torch, so both are left out. Its entropy models import
scipy.stats for one quantile, which scipy itself loads once that is asked for. Who imports
CompressAI before this package has it whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_LEFT_OUT = ("torch_geometric", "torchvision", "scipy.stats")


@lru_cache(maxsize=1)
def import_compressai() -> Any:
    """Return CompressAI, imported at the first call."""
    with left_out():
        import compressai

    return compressai


def _belongs(name: str) -> bool:
    return name.startswith(tuple(f"{left}." for left in _LEFT_OUT)) or name in _LEFT_OUT


class _LeftOut:
    """Stands for a class or a decorator that is left out; what derives from it can't be made."""

    def __init_subclass__(cls) -> None:
        def refuse(self: object, *_: object, **__: object) -> None:
            raise ImportError(
                f"{type(self).__name__} needs torch_geometric, which tcm_lab leaves out when it "
                "imports CompressAI. Import compressai before tcm_lab."
            )

        cls.__init__ = refuse  # type: ignore[method-assign]  # what refusing takes

    def __init__(self, *_: object) -> None: ...

    def __call__(self, decorated: object) -> object:
        return decorated


class _Module(ModuleType):
    def __getattr__(self, name: str) -> type[_LeftOut]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _LeftOut


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if _belongs(fullname) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = _Module(spec.name)
        module.__path__ = []  # a package, so that what lies below it is found too
        return module

    def exec_module(self, module: ModuleType) -> None: ...


@contextmanager
def left_out() -> Iterator[None]:
    """Let imports of what is left out find stand-ins, unless it is there already.

    Nothing of the stand-ins stays behind: who imports it later gets the real one.
    """
    finder, before = _Finder(), {name for name in sys.modules if _belongs(name)}
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if _belongs(name) and name not in before]:
            del sys.modules[name]
            package, _, own = name.rpartition(".")
            if package in sys.modules:
                delattr(sys.modules[package], own)
