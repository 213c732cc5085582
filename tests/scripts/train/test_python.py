"""`diffplan.train` from Python: data in memory, settings, callbacks, evaluations on the way."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from accelerate.tracking import GeneralTracker

import diffplan
from diffplan.config.planners import get_config
from diffplan.data.episodes import Episodes
from diffplan.scripts.train.options import EVALUATION_SEED
from diffplan.scripts.train.settings import settings_of
from diffplan.training.run import Progress

TINY: dict[str, Any] = {
    "proposer": {"width": 16},
    "denoiser": {"width": 16},
    "heads": {"width": 16},
    "training": {"batch_size": 8},
    "plan": {"horizon": 4},
    "device": "cpu",
    "progress": False,
}


@pytest.fixture
def swings() -> dict[str, np.ndarray]:
    """Transitions with the shapes of Pendulum-v1's."""
    rng, steps = np.random.default_rng(0), 300
    states = rng.normal(size=(steps + 1, 3)).cumsum(0) / 10
    return {
        "observations": states[:-1],
        "next_observations": states[1:],
        "actions": rng.uniform(-1, 1, (steps, 1)),
        "rewards": rng.normal(size=steps),
        "terminations": np.zeros(steps, bool),
        "truncations": np.arange(1, steps + 1) % 30 == 0,
    }


class Recorder(GeneralTracker):
    """Remembers what it is told."""

    name = "recorder"
    requires_logging_directory = False
    tracker = None

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {}
        self.rows: list[dict[str, float]] = []

    def store_init_configuration(self, values: dict) -> None:
        self.settings = values

    def log(self, values: dict, step: int | None = None, **_: Any) -> None:
        self.rows.append({"step": float(step or 0), **values})


def test_a_run_reports_is_evaluated_on_the_way_and_can_be_stopped(
    tmp_path: Path, swings: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffplan.envs.rollouts import parallel

    seeds, played = [], parallel.rollout

    def spy(*args: Any, **options: Any) -> Any:
        seeds.append(options["seed"])
        return played(*args, **options)

    monkeypatch.setattr(parallel, "rollout", spy)
    monkeypatch.delitem(gym.registry, "Swing-v0", raising=False)
    gym.register("Swing-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=12)
    seen, recorder = list[Progress](), Recorder()

    def callback(at: Progress) -> bool:
        seen.append(at)
        return at.step == 50

    run = diffplan.train(
        "trajectory-diffuser",
        dataset=swings,
        env="Swing-v0",
        out=tmp_path / "a",
        steps=100,
        evaluate_every=30,
        evaluate_episodes=2,
        track=["tensorboard", recorder],
        callback=callback,
        **TINY,
    )
    assert [(at.step, at.evaluation is not None) for at in seen] == [(30, True), (50, False)]
    assert seeds == [EVALUATION_SEED]
    assert run.checkpoint.name == "checkpoint-00000050" and run.load_agent().origin is not None
    evaluation = seen[0].evaluation
    assert evaluation is not None
    low, mean, high = (evaluation[f"evaluation/return{end}"] for end in ("_low", "", "_high"))
    assert low <= mean <= high < 0
    assert {"step": 30, **evaluation}.items() <= run.metrics[1].items()
    assert (tmp_path / "a" / "pictures" / "update-30" / "plans.png").is_file()
    assert recorder.settings["plan.horizon"] == 4 and recorder.settings["dataset"] == "arrays"
    assert [row["step"] for row in recorder.rows] == [30, 30, 50]
    assert {"learning_rate", "time/draw_ms", "time/evaluate"} <= recorder.rows[-1].keys()
    # nothing of that changes what is learned
    quiet = {**TINY, "env": "Swing-v0", "track": ()}
    plain = diffplan.train(
        "trajectory-diffuser", dataset=swings, out=tmp_path / "b", steps=50, **quiet
    )
    weights = [each.checkpoint / "model.safetensors" for each in (run, plain)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_configuration_is_taken_as_it_is_and_written_down(
    tmp_path: Path, tiny_episodes: Episodes
) -> None:
    config = diffplan.get_config("from-noise")
    name, given = settings_of(config)
    assert (name, given) == ("from-noise", {})
    run = diffplan.train(config, dataset=tiny_episodes, out=tmp_path / "run", steps=1, **TINY)
    trained = json.loads((run.checkpoint / "config.json").read_text())["config"]
    assert trained["denoiser"]["width"] == 16 and trained["denoiser"]["process"] == "ddpm"
    written = (tmp_path / "run" / "run.yaml").read_text()
    assert "config: from-noise" in written and "preset: none" in written
    assert "dataset:" not in written.partition("config:")[2]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"stepps": 3}, "diffplan.train has no 'stepps'; did you mean 'steps'?"),
        ({"plan": {"strid": 3}}, "has no plan.strid; did you mean 'stride'?"),
        ({"plan": 3}, "plan is 3, expected settings by name"),
        ({"track": "wandbb"}, "track is"),
        ({"env": "NoSuch-v0"}, "NoSuch-v0"),
        ({"dataset": 3}, "dataset is a int, expected a name, a path, Episodes, a Minari dataset"),
        ({"dataset": {"a": [1]}}, "arrays: observations missing"),
        ({"evaluate_every": 5}, "--evaluate-every needs an environment, and arrays names none"),
    ],
    ids=str,
)
def test_a_mistake_is_named_and_leaves_nothing(
    settings: dict[str, Any], expected: str, tmp_path: Path, swings: dict[str, np.ndarray]
) -> None:
    given = {**TINY, "dataset": swings, "out": tmp_path / "new" / "run", **settings}
    with pytest.raises(diffplan.DiffplanError) as error:
        diffplan.train("trajectory-diffuser", **given)
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "new").exists()


def test_a_tracker_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffplan.training import trackers

    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(diffplan.DiffplanError, match="--track wandb needs wandb; pip install"):
        trackers.check_trackers(["wandb"])


def test_settings_of_a_configuration_of_ones_own() -> None:
    config = get_config("trajectory-diffuser")
    own = type(config)(name="mine", plan=type(config.plan)(stride=3))
    assert settings_of(own) == ("trajectory-diffuser", {"plan.stride": 3, "name": "mine"})
