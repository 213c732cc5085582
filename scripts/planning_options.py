"""Every planning setting as an option of its own: how a trained run plans otherwise."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro

from diffplan.config.config import OPEN, replace_planning
from diffplan.config.sections import PlanningConfig
from diffplan.model.run_folder import read_header
from diffplan.model.tuned import tuned_planning

TURNED = (
    *("start", "denoising_steps", "sampler", "noise_scale", "candidates", "replan_every"),
    *("subgoal_steps", "reuse", "target", "target_quantile", "target_return"),
)
"""The planning settings that people turn: what --help shows of them."""
TURNED_SETTINGS = (
    *("plan.horizon", "plan.stride", "data.discount", "data.condition_on_returns"),
    *("proposer.kind", "denoiser.process", "heads.value"),
    *("training.batch_size", "training.learning_rate"),
    *(f"planning.{name}" for name in TURNED),
)
"""Those of a whole configuration."""
OWN: Literal["own"] = "own"
"""Stands for the run's own setting; None does so for flags alone, it is a value of others."""


def _changes_of(section: type) -> Callable[[type], type]:
    """Give a class the fields of a section of the configuration, with none given by default."""
    hints, helps = get_type_hints(section), _help(section)

    def decorate(cls: type) -> type:
        annotations: dict[str, Any] = {}
        for each in fields(section):
            hint, told = hints[each.name], helps.get(each.name, "")
            if f"planning.{each.name}" in OPEN:  # decided when the run was trained
                hint = Union[tuple(x for x in get_args(hint) if x is not type(None))]  # noqa: UP007
                told = re.sub(r" None: [^.]*(\.\d[^.]*)?\.$", "", told)
            shown = tyro.conf.arg(
                metavar=None if hint is bool else _metavar(hint),
                help=told,
                help_behavior_hint="(default: the run's own)",
            )
            if hint is bool:  # --x or --no-x
                asked: Any = tyro.conf.DisallowNone[bool | None]  # type: ignore[misc]
            else:
                asked = Union[hint, Literal["own"]]  # noqa: UP007
            annotations[each.name] = Annotated[asked, shown]
            setattr(cls, each.name, None if hint is bool else OWN)
        cls.__annotations__ = annotations
        return dataclass(frozen=True)(cls)

    return decorate


def as_words(option: str, value: Any) -> list[str]:
    """How an option, "--section.name", is given on the command line with this value."""
    if isinstance(value, bool):
        *section, name = option.removeprefix("--").split(".")
        return ["--" + ".".join([*section, name if value else f"no-{name}"])]
    return [option, str(value)]


def _help(section: type) -> Mapping[str, str]:
    """The docstrings under the fields of a class, which Python itself does not keep."""
    # what stands under a field is an expression that has no effect: only the source has it
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(after.value.value).split())
    return found


def _metavar(hint: Any) -> str:
    """As the command line shows a type: INT, {a,b}, None|FLOAT."""
    if get_origin(hint) in (Union, types.UnionType):
        return "|".join(_metavar(part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(str, get_args(hint))) + "}"
    if hint is type(None):
        return "None"
    return str(hint.__name__).upper()


@_changes_of(PlanningConfig)
class PlanningOptions:
    """How to plan, where it should differ from the run's own configuration."""

    if TYPE_CHECKING:

        def __init__(self, **given: Any) -> None: ...

    @property
    def given(self) -> dict[str, Any]:
        """The settings that were given, for `load_agent`."""
        # by comparison with the class: None and 0 are settings like others
        asked = {each.name: getattr(self, each.name) for each in fields(PlanningConfig)}
        own = {name: getattr(type(self), name) for name in asked}
        return {name: value for name, value in asked.items() if value != own[name]}

    def check(self, checkpoint: Path, tuned: bool = True, **fixed: Any) -> None:
        """Raise DiffplanError where the model of a checkpoint cannot plan so; reads no weights.

        tuned: as in `load_agent`. fixed: settings that are what they are whatever was given.
        """
        # the own settings were checked when they were written
        if self.given:
            own = tuned_planning(checkpoint) if tuned else {}
            replace_planning(read_header(checkpoint).config, **own | self.given | fixed)
