"""Train the actors whose rollouts are the locomotion data, and the ant's maze data, made here.

python -m diffplan.scripts.checks.behaviour Walker2d-v5 --out runs/behaviour

Resumable: a killed run goes on from its last snapshot. Every snapshot is an actor that
`envs/makers/actors.py` reads, scored as its data are made. Needs stable-baselines3 (`behaviour`).
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import gymnasium as gym
import numpy as np
import torch
import tyro

from diffplan.envs.makers.actors import load_actor, save_actor
from diffplan.envs.simulators.installed import require_simulator
from diffplan.envs.simulators.ogbench import seeded
from diffplan.errors import DiffplanError
from diffplan.scripts.checks import main

# Proximal policy optimisation (arXiv 1707.06347) with 16 environments has a walker after minutes of
# a core; the cheetah, which never falls, is the faster one by soft actor-critic (arXiv 1801.01290).
_PPO: dict[str, Any] = {
    "n_steps": 128,
    "batch_size": 128,
    "n_epochs": 10,
    "clip_range": 0.2,
    "max_grad_norm": 0.5,
    "vf_coef": 0.5,
    "gae_lambda": 0.95,
    "gamma": 0.99,
}
_RATE = 3e-4  # of learning, falling to zero
_NETWORK = {"net_arch": [64, 64], "optimizer_kwargs": {"fused": True}}
# log_std_init, ent_coef; with narrower actions the hopper learns to stand still
_EXPLORATION = {"Hopper-v5": (0.0, 0.002), "Walker2d-v5": (-1.0, 0.0)}
_DIRECTED_ANT = "online-ant-v0"
_SAC: dict[str, dict[str, Any]] = {
    "HalfCheetah-v5": {"learning_starts": 5000, "train_freq": 2, "gradient_steps": 1},
    # OGBench's own: 400,000 steps, an update after each
    _DIRECTED_ANT: {"learning_rate": 1e-4, "learning_starts": 10_000, "target_entropy": -4.0},
}
_SCORED_FROM = 10_000  # seeds of the episodes that score a snapshot


@dataclass(frozen=True)
class Behaviour:
    """Train one actor and keep snapshots of it on the way."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ID")]
    """Hopper-v5, Walker2d-v5, HalfCheetah-v5, or online-ant-v0: OGBench's ant, which is told a
    direction, another every 100 steps, and rewarded by its way along it."""
    steps: int = 1_000_000
    """Environment steps in all, those before a resume included."""
    out: Path = Path("runs/behaviour")
    """Folder; one named after environment and seed is made in it."""
    every: int = 100_000
    """Steps between snapshots."""
    episodes: int = 10
    """Episodes that score a snapshot, with actions as in the data."""
    seed: int = 0
    """Of the training."""

    def run(self) -> None:
        """Train, and write a snapshot every `every` steps."""
        known = (*_EXPLORATION, *_SAC)
        if self.env not in known:
            raise DiffplanError(f"no settings for {self.env}; known: {', '.join(known)}")
        torch.set_num_threads(1)
        folder = self.out / f"{self.env}-{self.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        learner = (_sac if self.env in _SAC else _ppo)(self, folder)
        model, clock = learner.model, [time.perf_counter(), learner.model.num_timesteps]

        def snapshot(_: dict[str, Any], __: dict[str, Any]) -> bool:
            done = model.num_timesteps
            if done - clock[1] >= self.every or done == self.steps:
                rate = (done - clock[1]) / (time.perf_counter() - clock[0])
                self._snapshot(learner, folder, rate)
                clock[:] = time.perf_counter(), done
            return True

        left = self.steps - model.num_timesteps
        if left > 0:
            model.learn(left, callback=snapshot, reset_num_timesteps=False)

    def _snapshot(self, learner: _Learner, folder: Path, rate: float) -> None:
        done = learner.model.num_timesteps
        path = folder / f"{done:08d}.npz"
        meta = {"env": self.env, "steps": done, "seed": self.seed}
        learner.write(path, meta)
        returns = _score(self.env, path, self.episodes)
        learner.write(path, meta | {"return": round(float(np.mean(returns)), 1)})
        learner.save()
        line = {"steps": done, "return": float(np.mean(returns)), "std": float(np.std(returns))}
        line["steps_per_second"] = round(rate, 1)
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(folder.name, line, flush=True)


def _score(env: str, path: Path, episodes: int) -> list[float]:
    actor, simulator, returns = load_actor(path), _environment(env), []
    for seed in range(_SCORED_FROM, _SCORED_FROM + episodes):
        # the ant leads by its mean, to which its data add noise of their own
        rng = None if env == _DIRECTED_ANT else np.random.default_rng(seed)
        with seeded(simulator, seed):
            observation, _ = simulator.reset(seed=seed)
            total, over = 0.0, False
            while not over:
                observation, reward, ended, cut, _ = simulator.step(actor(observation, rng))
                total, over = total + float(reward), ended or cut
        returns.append(total)
    return returns


def _environment(env: str) -> gym.Env:
    if env != _DIRECTED_ANT:
        return gym.make(env)
    require_simulator("ogbench", env)
    from ogbench.online_locomotion.wrappers import GymXYWrapper

    # draws directions from NumPy's global generator, which stable-baselines3 seeds
    return GymXYWrapper(gym.make(env), resample_interval=100)


@dataclass(frozen=True)
class _Learner:
    """model: stable-baselines3's. write: an actor to a file, with its facts. save: for a resume."""

    model: Any
    write: Callable[[Path, dict[str, Any]], None]
    save: Callable[[], None]


class _Quiet(gym.Wrapper):
    """Without what `info` holds, which stable-baselines3 copies at every step."""

    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], {}


def _ppo(given: Behaviour, folder: Path) -> _Learner:
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    log_std, entropy = _EXPLORATION[given.env]
    environments = make_vec_env(
        lambda: _Quiet(gym.make(given.env, disable_env_checker=True)), 16, seed=given.seed
    )
    state, scales = folder / "state.zip", folder / "scales.pkl"
    # no clipping of observations: the scales must fold into the first layer
    if state.exists() and scales.exists():
        scaled = VecNormalize.load(str(scales), environments)
        model = PPO.load(state, env=scaled, device="cpu")
    else:
        scaled = VecNormalize(environments, gamma=_PPO["gamma"], clip_obs=np.inf)
        model = PPO(
            "MlpPolicy",
            scaled,
            learning_rate=lambda left: _RATE * left,
            seed=given.seed,
            device="cpu",
            policy_kwargs=_NETWORK | {"log_std_init": log_std},
            ent_coef=entropy,
            **_PPO,
        )

    def write(path: Path, meta: dict[str, Any]) -> None:
        policy, seen = model.policy, cast(Any, scaled.obs_rms)
        linear = [policy.mlp_extractor.policy_net[0], policy.mlp_extractor.policy_net[2]]
        (first, bias), *rest = _numbers([*linear, policy.action_net])
        scale = 1.0 / np.sqrt(seen.var + scaled.epsilon)
        layers = [(first * scale, bias - first @ (seen.mean * scale)), *rest]
        log_std = (policy.log_std.detach().numpy(),)
        facts = {"algorithm": "PPO", "activation": "tanh", "squash": False}
        save_actor(path, layers, log_std, meta | facts)

    def save() -> None:
        scaled.save(str(scales))
        model.save(state)

    return _Learner(model, write, save)


def _sac(given: Behaviour, folder: Path) -> _Learner:
    from stable_baselines3 import SAC

    state, buffer = folder / "state.zip", folder / "buffer.pkl"
    environment = _environment(given.env)
    if state.exists() and buffer.exists():
        model = SAC.load(state, env=environment, device="cpu")
        model.load_replay_buffer(buffer)
    else:
        size = min(given.steps, 1_000_000)
        model = SAC(
            "MlpPolicy",
            environment,
            buffer_size=size,
            seed=given.seed,
            device="cpu",
            **_SAC[given.env],
        )

    def write(path: Path, meta: dict[str, Any]) -> None:
        actor: Any = model.actor
        layers = _numbers([actor.latent_pi[0], actor.latent_pi[2], actor.mu])
        facts = {"algorithm": "SAC", "activation": "relu", "squash": True}
        save_actor(path, layers, _numbers([actor.log_std])[0], meta | facts)

    def save() -> None:
        partial = buffer.with_suffix(".partial.pkl")
        with partial.open("wb") as file:  # a run killed meanwhile keeps the one before
            pickle.dump(model.replay_buffer, file)
        partial.replace(buffer)
        model.save(state)

    return _Learner(model, write, save)


def _numbers(layers: list[Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in layers]


if __name__ == "__main__":
    sys.exit(main(Behaviour, "diffplan.scripts.checks.behaviour", sys.argv[1:]))
