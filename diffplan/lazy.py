"""What packages and tables name, imported when it is first used."""

import sys
from collections.abc import Callable, Mapping
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


def imported(home: str) -> Any:
    """What "module:attribute" names."""
    module, _, attribute = home.partition(":")
    return getattr(import_module(module), attribute)


def late(home: str) -> Callable[..., Any]:
    """What "module:attribute" names, as a function that imports it when it is first called."""

    def call(*args: Any, **options: Any) -> Any:
        return imported(home)(*args, **options)

    return call
