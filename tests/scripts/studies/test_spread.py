"""`diffplan study --ray`: the cells of a local cluster are those of a study here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffplan.scripts.cli import main

pytest.importorskip("ray")

ENVIRONMENT = """
import os, signal
from pathlib import Path
import gymnasium as gym
import numpy as np

HERE = Path(__file__).parent

class Tank(gym.Env):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        # the first worker that scores is killed, once
        if seed and seed >= 1000 and os.environ.get("TEST_PID") != str(os.getpid()):
            try:
                (HERE / "killed").mkdir()
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        self.state = self.np_random.normal(size=2).astype(np.float32)
        return self.state, {}

    def step(self, action):
        self.state = (0.9 * self.state + 0.1 * np.float32(action[0])).astype(np.float32)
        return self.state, -float(abs(self.state[0])), False, False, {}

gym.register("TestTank-v0", Tank, max_episode_steps=10)
"""


@pytest.mark.slow
def test_cells_of_workers_are_those_of_here_though_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TEST_PID", str(os.getpid()))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # beside other tests
    Path("test_tank_env.py").write_text(ENVIRONMENT)
    rng = np.random.default_rng(0)
    ends = np.arange(1, 201) % 10 == 0
    np.savez(
        "tank.npz",
        observations=rng.normal(size=(200, 2)),
        actions=rng.uniform(-1, 1, (200, 1)),
        rewards=-rng.random(200),
        terminations=ends & False,
        truncations=ends,
    )
    words = ["study", "tank.npz", "--only", "ours", "cloning", "--env", "test_tank_env:TestTank-v0"]
    words += ["--steps", "2", "--updates", "8", "--episodes", "2", "--seeds", "1"]
    assert main([*words, "--out", "there", "--ray", "local"]) == 0
    assert Path("killed").is_dir()
    assert capsys.readouterr().out.count("done: ") == 2
    # in a process of its own, as workers are: constants of tests do not reach them
    command = [sys.executable, "-m", "diffplan.scripts.cli", *words, "--out", "here"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    files = sorted(path.name for path in Path("here/tank/cells").iterdir())
    assert len(files) == 2
    for name in files:
        mine, theirs = (
            json.loads((Path(out) / "tank/cells" / name).read_text()) for out in ("here", "there")
        )
        assert mine["returns"] == theirs["returns"] and mine["asked"] == theirs["asked"]
