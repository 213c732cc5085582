"""Whose code may run, and with which arguments, where data name the environment.

An id "module:Env-v0" has Python code imported. Data and checkpoints come from anywhere, so only
modules that the user has named are: with --env (from Python: `env=` of `load_dataset`), or by
importing them. What was named is kept with the file it was found in, so that a run can be
evaluated and compared by commands that do not name it again.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import uuid
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from diffplan.data.folders import cache_root
from diffplan.errors import DiffplanError

_INHERITED = "DIFFPLAN_ENV_MODULES"  # tells the processes that this one starts
_LONGEST = 10_000_000  # steps of an episode


def name_module(module: str) -> None:
    """Remember that the user named this module, and from which file it comes."""
    os.environ[_INHERITED] = " ".join(sorted({*_inherited(), module}))
    kept = {**_kept(), module: _origin(module)}
    # where nothing can be written it is named again next time
    with contextlib.suppress(OSError):
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
        partial.write_text(json.dumps(kept, indent=1) + "\n")
        os.replace(partial, file)


def check_named(module: str, env_id: str) -> None:
    """Raise DiffplanError unless the user named this module, or has imported it."""
    origin = _origin(module)
    if module in sys.modules or module in _inherited() or _kept().get(module, "") == origin != "":
        return
    where = f" ({origin})" if origin else ""
    raise DiffplanError(
        f"the data ask for the environment {env_id}, which would run the code of the module "
        f"{module!r}{where}; if you trust it, name it: --env {env_id}"
    )


def _origin(module: str) -> str:
    """The file of the module's first part, "" if it is not found; nothing is imported."""
    # where the import would look
    found = PathFinder.find_spec(module.partition(".")[0], [*sys.path, str(Path.cwd())])
    return str(Path(found.origin).resolve()) if found is not None and found.origin else ""


def _inherited() -> list[str]:
    return os.environ.get(_INHERITED, "").split()


def _file() -> Path:
    return cache_root() / "environment-modules.json"


def _kept() -> dict[str, str]:
    try:
        found = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def check_arguments(env_id: str, arguments: Mapping[str, Any]) -> None:
    """Raise DiffplanError for arguments of an environment that data have no business to give.

    Paths, which a simulator would open; windows; a time limit that is none.
    """
    for key, value in arguments.items():
        for text in _texts(value):
            if any(mark in text for mark in "/\\~") or text.startswith("."):
                raise DiffplanError(
                    f"the data ask for environment {env_id} with {key} = {text!r}, a path; files "
                    "are opened only for environments of your own: register one with it, and name "
                    "that with --env"
                )
    if arguments.get("render_mode") not in (None, "rgb_array"):
        raise DiffplanError(
            f"the data ask for environment {env_id} with render_mode = "
            f"{arguments['render_mode']!r}; only rgb_array is drawn here: name it with --env"
        )
    limit = arguments.get("max_episode_steps")
    if limit is not None and not (type(limit) is int and 1 <= limit <= _LONGEST):
        raise DiffplanError(
            f"environment {env_id} has max_episode_steps = {limit!r}, expected 1 to {_LONGEST}; "
            "give --time-limit, or name the environment with --env"
        )


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for part in (*value, *value.values()) for text in _texts(part)]
    return [text for part in value for text in _texts(part)] if isinstance(value, list) else []
