"""Data and checkpoints that ask for code to be run, for files to be opened, or that diverge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from diffplan.scripts.checks.torture.machinery import Judge, run
from diffplan.scripts.checks.torture.scene import Scene, cart

_HOSTILE = "open({marker!r}, 'w').write('run')\n"


def code(judge: Judge, scene: Scene) -> None:
    """Modules that data name lie in the current folder, and are not imported."""
    for name, changes, says in (
        ("checkpoint: env_id", {"env_id": "hostile:Env-v0"}, "name it: --env hostile:Env-v0"),
        ("checkpoint: submodule", {"env_id": "hostile.sub:Env-v0"}, "--env hostile.sub:Env-v0"),
        (
            "checkpoint: xml_file",
            {"env_id": "Hopper-v5", "env_kwargs": {"xml_file": "/etc/hostname"}},
            "a path",
        ),
        (
            "checkpoint: path in a list",
            {"env_id": "Hopper-v5", "env_kwargs": {"a": [{"b": "../x.xml"}]}},
            "a path",
        ),
        (
            "checkpoint: no limit",
            {"env_id": "Hopper-v5", "env_kwargs": {"max_episode_steps": -1}},
            "max_episode_steps",
        ),
        (
            "checkpoint: window",
            {"env_id": "Hopper-v5", "env_kwargs": {"render_mode": "human"}},
            "render_mode",
        ),
    ):
        folder, marker = _trap(scene)
        tampered = folder / "run"
        shutil.copytree(scene.trained, tampered)
        (header,) = tampered.glob("checkpoint-*/config.json")
        found: dict[str, Any] = json.loads(header.read_text())
        found["info"] |= changes
        header.write_text(json.dumps(found))
        command, status = run(["evaluate", "run", "--no-pictures"], folder)
        judge.case("code in data", name, command, status, 2, says, marker=marker)
    for name, spec in _specs().items():
        folder, marker = _trap(scene)
        dataset = f"torture/{name.replace(' ', '-')}-v0"
        _minari(dataset, spec)
        words = scene.train(Path("run"), 2)
        words[words.index(str(scene.data))] = dataset
        command, status = run(words, folder)
        # the data can be trained on; only their environment is not made
        judge.case("code in data", f"Minari: {name}", command, status, (0, 2), marker=marker)
        command, status = run(["datasets", "show", dataset], folder)
        judge.case("code in data", f"show: {name}", command, status, (0, 2), marker=marker)
    folder, marker = _trap(scene)
    words = scene.evaluate(cart(), folder / "results.json")
    command, status = run(words, folder)
    judge.case("code in data", "named by the user", command, status, 0, marker=marker)


def _trap(scene: Scene) -> tuple[Path, Path]:
    """A folder with modules that leave a mark when they are imported."""
    folder = scene.folder()
    marker = folder / "marker"
    (folder / "hostile").mkdir()
    for name in ("hostile/__init__.py", "hostile/sub.py", "imageio_ffmpeg.py"):
        (folder / name).write_text(_HOSTILE.format(marker=str(marker)))
    return folder, marker


def _specs() -> dict[str, gym.envs.registration.EnvSpec]:
    """Environments that a dataset may claim."""
    spec = gym.envs.registration.EnvSpec
    wrapper = gym.envs.registration.WrapperSpec
    return {
        "env_id": spec("hostile:Env-v0"),
        "entry point": spec("Other-v0", entry_point="hostile:Env"),
        "wrapper": spec(
            "Pendulum-v1",
            entry_point="gymnasium.envs.classic_control.pendulum:PendulumEnv",
            additional_wrappers=(wrapper("Mark", "hostile:Mark", {}),),
        ),
    }


def _minari(dataset_id: str, spec: gym.envs.registration.EnvSpec) -> None:
    from minari import create_dataset_from_buffers
    from minari.data_collector import EpisodeBuffer

    rng = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            observations=rng.normal(size=(21, 2)).astype(np.float32),
            actions=rng.uniform(-1, 1, (20, 1)).astype(np.float32),
            rewards=rng.normal(size=20),
            terminations=np.zeros(20, bool),
            truncations=np.arange(20) == 19,
        )
        for _ in range(6)
    ]
    dataset = create_dataset_from_buffers(
        dataset_id,
        buffers,
        observation_space=gym.spaces.Box(-np.inf, np.inf, (2,), np.float32),
        action_space=gym.spaces.Box(-1, 1, (1,), np.float32),
    )
    # as a foreign file may hold it: Minari itself would make the environment first
    dataset.storage.update_metadata({"env_spec": spec.to_json()})


def divergence(judge: Judge, scene: Scene) -> None:
    """Named with its update and the last good checkpoint; NaN is not resumed."""
    folder = scene.folder()

    def explode() -> None:
        from diffplan.training import learner

        update = learner.Learner.update

        def nan_later(self: Any, step: int) -> Any:
            found = update(self, step)
            if step == 14:
                next(self.model.parameters()).data.fill_(float("nan"))
            return found

        learner.Learner.update = nan_later  # type: ignore[method-assign]

    words = scene.train(folder / "run", 20, "--checkpoint-every", "5")
    command, status = run(words, folder, explode)
    says = ("diverged", "update 15", "checkpoint-00000010")
    judge.case("divergence", "train", command, status, 2, *says)
    from safetensors.numpy import load_file, save_file

    last = sorted((folder / "run").glob("checkpoint-*"))[-1]
    weights = load_file(last / "model.safetensors")
    name = next(key for key, value in weights.items() if value.dtype == np.float32)
    weights[name] = weights[name] * np.float32("nan")
    save_file(weights, last / "model.safetensors")
    command, status = run([*words, "--resume"], scene.folder())
    judge.case("divergence", "resume", command, status, 2, "NaN")
    command, status = run(
        ["evaluate", str(folder / "run"), "--env", cart(), "--no-pictures"], scene.folder()
    )
    judge.case("divergence", "evaluate", command, status, 2, "NaN")
