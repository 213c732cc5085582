"""Packages and tables that import what they name when it is first used."""

import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any


def attributes(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` (PEP 562) of a package, which so stays quick to import.

    names: module -> the names that the package hands on from it, with spaces
    between.
    """
    homes = {name: module for module, held in names.items() for name in held.split()}

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, found)  # asked once
        return found

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return find, listed


class Table(Mapping[str, Any]):
    """Things by name, each given as "module:attribute"; the names are known without importing."""

    def __init__(self, **homes: str) -> None:
        """homes: name -> "module:attribute"."""
        self._homes = homes

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = self._homes[name].partition(":")
        return getattr(import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)
