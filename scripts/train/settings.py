"""Options and settings as nested names and values: from a file or from Python, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from diffplan.config.config import Config, config_to_dict
from diffplan.config.planners import CONFIGS, get_config
from diffplan.config.sections import Sections
from diffplan.errors import DiffplanError, nearest
from diffplan.model.run_folder import own_version
from diffplan.scripts.train.options import TrainOptions

SECTIONS: dict[str, type] = {
    each.name: get_type_hints(Sections)[each.name]
    for each in dataclasses.fields(Sections)
    if each.name != "name"
}
_OWN = ("name", "given", "command")  # of TrainOptions: not asked for by these names
OPTIONS = tuple(each.name for each in dataclasses.fields(TrainOptions) if each.name not in _OWN)


def read_options(given: Mapping[str, Any], where: str) -> TrainOptions:
    """Options from names and values, settings nested in their sections.

    {"config": "trajectory-diffuser", "dataset": ..., "steps": 6000, "planning": {"candidates": 4}}

    where: what to call them in a message. Raises DiffplanError for an unknown name, with the
    nearest known one, and for a value of a wrong kind.
    """
    name, options, settings = read_values(given, where)
    get_config(name)  # refuses an unknown one
    return TrainOptions(**{"dataset": (), **options}, name=name, given=settings)


def read_values(given: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The configuration's name, the options and the settings in `given`, see `read_options`."""
    known = ("config", "name", *OPTIONS, *SECTIONS)
    settings: dict[str, Any] = {}
    options: dict[str, Any] = {}
    hints = get_type_hints(TrainOptions, include_extras=True)
    for key, value in given.items():
        if key not in known:
            raise DiffplanError(f"{where} has no {key!r}; {_near(str(key), known)}")
        if key in SECTIONS:
            settings |= _section(key, value, where)
        elif key == "name":
            settings["name"] = _value(str, value, f"{where}: name")
        elif key == "dataset":
            options[key] = (str(value),) if isinstance(value, str | Path) else _names(value, where)
        elif key == "track" and not isinstance(value, str):
            options[key] = tuple(value)  # names, or objects of one's own
        elif key != "config":
            one = (value,) if key == "track" else value
            options[key] = _value(hints[key], one, f"{where}: {key}")
    return str(given.get("config", next(iter(CONFIGS)))), options, settings


def _names(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise DiffplanError(f"{where}: dataset is {value!r}, expected a name or a list of names")
    return tuple(map(str, value))


def _section(name: str, given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise DiffplanError(
            f"{where}: {name} is {given!r}, expected settings by name, as {name}: "
            f"{{{dataclasses.fields(SECTIONS[name])[0].name}: ...}}"
        )
    hints = get_type_hints(SECTIONS[name], include_extras=True)
    known = [each.name for each in dataclasses.fields(SECTIONS[name])]
    found = {}
    for key, value in given.items():
        if key not in known:
            raise DiffplanError(f"{where} has no {name}.{key}; {_near(str(key), known)}")
        found[f"{name}.{key}"] = _value(hints[key], value, f"{where}: {name}.{key}")
    return found


def _value(kind: Any, value: Any, where: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise DiffplanError(f"{where} is {value!r}, expected: {error.errors()[0]['msg']}") from None


def _near(name: str, known: Collection[str]) -> str:
    return nearest(name, known).rstrip() or f"known: {', '.join(known)}"


def settings_of(config: Config) -> tuple[str, dict[str, Any]]:
    """The named configuration that one's own begins with, and what differs in its own."""
    name = config.name if config.name in CONFIGS else next(iter(CONFIGS))
    own, base = config_to_dict(config), config_to_dict(get_config(name))
    differs = {
        f"{section}.{key}": getattr(getattr(config, section), key)
        for section in SECTIONS
        for key, value in own[section].items()
        if value != base[section][key]
    }
    return name, differs if config.name == name else {**differs, "name": config.name}


def read_file(path: Path) -> dict[str, Any]:
    """The options in a YAML file. DiffplanError for what is no such file."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise DiffplanError(f"no file {path}; --config takes a file such as RUN/run.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise DiffplanError(f"{path} is no readable YAML: {said}") from None
    if not isinstance(found, dict):
        raise DiffplanError(f"{path} holds {type(found).__name__}, expected options by name")
    return found


def as_file(options: TrainOptions) -> str:
    """The YAML text that asks for the same again; None and data that have no name are left out."""
    import yaml

    asked: dict[str, Any] = {"config": options.name}
    for key in OPTIONS:
        value = getattr(options, key)
        if key == "dataset":
            value = list(value) if len(value) > 1 else next(iter(value), None)
        elif key == "track":
            value = [name for name in value if isinstance(name, str)]
        if value is not None and key != "resume":
            asked[key] = str(value) if isinstance(value, Path) else value
    for key, value in sorted(options.given.items()):
        section, _, name = key.partition(".")
        value = list(value) if isinstance(value, tuple) else value
        if name:
            asked.setdefault(section, {})[name] = value
        else:
            asked[section] = value
    head = f"# diffplan {own_version()}; again: diffplan train --config THIS_FILE --out DIR\n"
    if not options.dataset:
        head += "# trained on arrays given from Python: name the data by --dataset\n"
    return head + yaml.safe_dump(asked, sort_keys=False)
