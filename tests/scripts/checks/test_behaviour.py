"""Actors are written as they were trained, with the scales of their observations folded in."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffplan.envs.makers.actors import load_actor

behaviour = pytest.importorskip("diffplan.scripts.checks.behaviour", reason="only in a checkout")
sb3 = pytest.importorskip("stable_baselines3")
pytest.importorskip("mujoco")


class Still(np.random.Generator):
    """Draws the middle."""

    def standard_normal(self, size: Any = None, dtype: Any = None, out: Any = None) -> Any:
        return np.zeros(size, dtype)


def test_an_actor_is_the_trained_policy(tmp_path: Path) -> None:
    behaviour.Behaviour("Hopper-v5", steps=2048, every=2048, episodes=1, out=tmp_path).run()
    folder = tmp_path / "Hopper-v5-0"
    model = sb3.PPO.load(folder / "state.zip", device="cpu")
    scales = pickle.loads((folder / "scales.pkl").read_bytes())
    actor, still = load_actor(folder / "00002048.npz"), Still(np.random.PCG64())
    seen = np.random.default_rng(0).normal(scales.obs_rms.mean, np.sqrt(scales.obs_rms.var))
    expected, _ = model.predict(scales.normalize_obs(seen), deterministic=True)
    np.testing.assert_allclose(actor(seen, still), expected, atol=3e-3)
    assert np.abs(expected).max() > 1e-3
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["steps"] for line in lines] == [2048]
    assert lines[-1]["return"] == pytest.approx(actor.meta["return"], abs=0.1)


def test_the_ant_that_is_told_a_direction(tmp_path: Path) -> None:
    pytest.importorskip("ogbench")
    behaviour.Behaviour("online-ant-v0", steps=40, every=40, episodes=1, out=tmp_path).run()
    folder = tmp_path / "online-ant-v0-0"
    model = sb3.SAC.load(folder / "state.zip", device="cpu")
    assert (model.learning_rate, model.target_entropy) == (1e-4, -4.0)
    actor = load_actor(folder / "00000040.npz")
    seen = np.random.default_rng(0).normal(size=29)  # the ant without x and y, and a direction
    expected, _ = model.predict(seen, deterministic=True)
    np.testing.assert_allclose(actor(seen), expected, atol=3e-3)
    assert expected.shape == (8,) and np.abs(expected).max() > 1e-3
