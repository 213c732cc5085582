"""Where the figures of a run are shown beside its metrics.jsonl: trackers, by accelerate's names.

Nothing is sent unasked: wandb records offline unless WANDB_MODE says otherwise, mlflow writes to
MLFLOW_TRACKING_URI or to files here, trackio to its own folder here.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from diffplan.errors import DiffplanError

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
_PROJECT = "diffplan"
_QUIET = {  # what these libraries report of their use, and fetch, by themselves
    "wandb": {"WANDB_ERROR_REPORTING": "false"},
    "mlflow": {"MLFLOW_DISABLE_TELEMETRY": "true"},
    "trackio": {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"},
}


def check_trackers(names: Sequence[Any]) -> None:
    """Raise DiffplanError for a tracker that is unknown or not installed."""
    for name in names:
        if not isinstance(name, str):  # a tracker object of one's own
            continue
        if name not in get_args(Tracker):
            raise DiffplanError(
                f"--track has {name!r}, expected some of {', '.join(get_args(Tracker))}"
            )
        if importlib.util.find_spec(name) is None:
            raise DiffplanError(f"--track {name} needs {name}; pip install {name}")


def make_trackers(names: Sequence[Any], run: Path, step: int) -> list[GeneralTracker]:
    """Trackers for a run in the folder `run` that stands after update `step`.

    names: of `Tracker`, or accelerate's `GeneralTracker` objects, which are handed on.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    made = []
    for name in names:
        if not isinstance(name, str):
            made.append(name)
            continue
        for variable, value in _QUIET.get(name, {}).items():
            os.environ.setdefault(variable, value)
        made.append(LOGGER_TYPE_TO_CLASS[name](*_place(name, run), **_options(name, run, step)))
    return made


def _place(name: str, run: Path) -> tuple[str, ...]:
    return ("tensorboard", str(run)) if name == "tensorboard" else (_PROJECT,)


def _options(name: str, run: Path, step: int) -> dict[str, Any]:
    if name == "tensorboard":
        # what a killed process logged beyond its checkpoint is logged again
        return {"purge_step": step + 1} if step else {}
    called = run.absolute().name
    if name == "wandb":
        mode = {} if "WANDB_MODE" in os.environ else {"mode": "offline"}
        return {"name": called, "dir": str(run), **mode}
    return {"run_name": called} if name == "mlflow" else {"name": called}


def describe(trackers: Sequence[GeneralTracker], settings: Mapping[str, Any], step: int) -> None:
    """Tell the trackers the settings of the run, nested, as one line of hyperparameters each."""
    flat = _flat(settings)
    for tracker in trackers:
        if step and tracker.name == "tensorboard":  # its folder holds them already
            continue
        tracker.store_init_configuration(flat)


def show_picture(trackers: Sequence[GeneralTracker], name: str, file: Path, step: int) -> None:
    """Hand a PNG file to the trackers that take pictures."""
    for tracker in trackers:
        if show := _SHOWN.get(tracker.name):
            show(tracker, name, file, step)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            plain = isinstance(value, bool | int | float | str)
            found[f"{prefix}{key}"] = value if plain else str(value)
    return found


def _pixels(file: Path) -> Any:
    """[1, height, width, 3] uint8."""
    import numpy as np
    from PIL import Image

    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))[None]


def _tensorboard(tracker: Any, name: str, file: Path, step: int) -> None:
    tracker.log_images({name: _pixels(file)}, step=step, dataformats="NHWC")


def _wandb(tracker: Any, name: str, file: Path, step: int) -> None:
    tracker.log_images({name: _pixels(file)}, step=step)


def _mlflow(tracker: Any, name: str, file: Path, step: int) -> None:
    tracker.log_artifact(str(file), f"{name}/update-{step}")


def _trackio(tracker: Any, name: str, file: Path, step: int) -> None:
    # installed where somebody asks for it
    picture = importlib.import_module("trackio").Image(str(file))
    tracker.log({name: picture}, step=step)


_SHOWN: dict[str, Callable[[Any, str, Path, int], None]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}
