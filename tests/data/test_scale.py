"""Data larger than the memory they may take: trained on from disk."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.format import open_memmap

import diffplan
from diffplan.config.config import config_to_dict
from diffplan.data.episodes import FORMAT
from diffplan.data.info import DatasetInfo, ObservationLayout

COLUMNS, EPISODES, STEPS = 100, 1000, 999
BUDGET = 200  # MB of memory beyond what the imports took; the states are 400 MB

CHILD = """
import json, resource, sys
from pathlib import Path
import torch
from torch.utils.tensorboard import SummaryWriter
from diffplan.config import config_from_dict
from diffplan.data.episodes import Episodes
from diffplan.training import RunOptions, train

folder, budget = Path(sys.argv[1]), int(sys.argv[2])
config = config_from_dict(json.loads((folder / "config.json").read_text()), "test")
torch.set_num_threads(1)
episodes = Episodes.load(folder / "data")  # a private mapping counts as memory, so it comes first
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
limit = int(status["VmData"].split()[0]) * 1024 + budget * 10**6
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    held = bytearray((budget + 1) * 10**6)
except MemoryError:
    pass
else:
    sys.exit(77)
train(episodes, config, RunOptions(folder / "run", 3, device="cpu", progress=False))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds mappings on Linux alone")
def test_data_beyond_the_memory_limit_are_trained_on(
    tmp_path: Path, tiny_config: Callable[..., Any]
) -> None:
    store = tmp_path / "data"
    store.mkdir()
    states, steps = EPISODES * (STEPS + 1), EPISODES * STEPS
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "states": ((states, COLUMNS), np.float32),
        "actions": ((steps, 2), np.float32),
        "rewards": ((steps,), np.float32),
        "terminations": ((steps,), np.bool_),
        "truncations": ((steps,), np.bool_),
    }
    for name, (shape, kind) in shapes.items():  # sparse files: all zero, hardly any disk
        array = open_memmap(store / f"{name}.npy", mode="w+", dtype=kind, shape=shape)
        if name in ("states", "rewards"):
            array[::50_000] = 1
        array.flush()
        del array
    for name, length in (("state_starts", STEPS + 1), ("step_starts", STEPS)):
        np.save(store / f"{name}.npy", np.arange(EPISODES + 1) * length)
    info = DatasetInfo("large", "arrays", None, {}, (-1.0, -1.0), (1.0, 1.0), {})
    header = {"format": FORMAT, "layout": asdict(ObservationLayout(COLUMNS)), "info": asdict(info)}
    (store / "episodes.json").write_text(json.dumps(header))
    assert (store / "states.npy").stat().st_size > 1.9 * BUDGET * 10**6
    (tmp_path / "config.json").write_text(json.dumps(config_to_dict(tiny_config())))
    result = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), str(BUDGET)],
        env={**os.environ, "PYTHONPATH": str(Path(diffplan.__file__).resolve().parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if result.returncode == 77:
        pytest.skip("this kernel ignores RLIMIT_DATA")
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "run" / "checkpoint-00000003").is_dir()
