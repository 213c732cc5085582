"""Help and refusals answer at once: nothing heavy is imported before there is work for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import diffplan
from diffplan.scripts.cli import COMMANDS

HEAVY = (
    *("accelerate", "gymnasium", "h5py", "matplotlib", "metaworld", "minari", "mujoco"),
    *("onnxruntime", "safetensors", "tensorboard", "torch"),
)
CALL = f"""
import sys
from diffplan.scripts.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
print("loaded:", *sorted(set({HEAVY}) & set(sys.modules)))
sys.exit(status)
"""


def call(args: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in `folder`; the last line of stdout names what was imported."""
    root = str(Path(diffplan.__file__).resolve().parents[1])
    return subprocess.run(
        [sys.executable, "-c", CALL, *args],
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("words", [(), *COMMANDS, ("train", "multi-task")], ids=" ".join)
def test_help_imports_nothing_heavy(words: tuple[str, ...], tmp_path: Path) -> None:
    done = call([*words, "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


TRAIN = ["train", "proposer-only", "--dataset", "x", "--out", "y"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["trian"], "did you mean 'train'"),
        *(([*words, "--no-such-option"], "") for words in COMMANDS),
        ([*TRAIN, "--steps", "many"], "many"),
        ([*TRAIN[:-1], "a-run"], "add --resume"),
        ([*TRAIN, "--steps", "0"], "--steps is 0"),
        ([*TRAIN, "--plan.horizon", "0"], "plan.horizon is 0"),
        (["train", "no-such-config", "--dataset", "x", "--out", "y"], "no-such-config"),
        (["benchmark", "no-such-config"], "no-such-config"),
        (["datasets", "make", "no-such-data"], "no-such-data"),
        (["evaluate", ".", "--episodes", "few"], "few"),
        (["evaluate", "."], "holds no checkpoint"),
        *(([name, "no-run"], "no-run") for name in ("evaluate", "compare", "calibrate", "queries")),
        *(([name], "RUN") for name in ("evaluate", "compare", "calibrate", "queries")),
        (["benchmark"], "RUN"),
        (["family"], "DIR"),
        (["family", "no-survey"], "no-survey"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refusal_imports_nothing_heavy(args: list[str], expected: str, tmp_path: Path) -> None:
    (tmp_path / "a-run" / "checkpoint-00000001").mkdir(parents=True)
    done = call(args, tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr + done.stdout
    assert done.stdout.splitlines()[-1] == "loaded:"
