"""What every test gets: one thread a process, no display, no network, data folders of its own."""

import os
from collections.abc import Iterator
from pathlib import Path

# Set before anything imports PyTorch, NumPy, Matplotlib or the hub's client; subprocesses inherit
# them. One thread: two test processes share two cores, and sums come out the same on any machine.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import pytest

# Shared machines stall for longer than any deadline worth setting; CI must not fail by chance.
hypothesis.settings.register_profile(
    "diffplan", deadline=None, derandomize="CI" in os.environ, print_blob=True
)
hypothesis.settings.load_profile("diffplan")


@pytest.fixture(scope="session", autouse=True)
def _no_data_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep every test away from the datasets and caches in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MINARI_DATASETS_PATH", "D4RL_DATASET_DIR", "DIFFPLAN_CACHE"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


@pytest.fixture
def minari_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that Minari takes for its root during one test."""
    root = tmp_path / "minari"
    root.mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    return root
