"""Help and refusals answer at once: nothing heavy is imported before there is work for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import diffplan
from diffplan.config import get_config
from diffplan.config.config import settled
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.model.run_folder import Header, checkpoint_path, header_to_dict
from diffplan.model.spec import ModelSpec
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


def write_run(folder: Path) -> None:
    """As much of a run as can be read without PyTorch."""
    config = settled(get_config("trajectory-diffuser"), has_goal=False)
    info = DatasetInfo("x", "x", None, {}, (0,), (1,), {})
    header = Header(config, ModelSpec(2, 1, ()), ObservationLayout(2), info, "", 1, 0, 0.0)
    checkpoint = checkpoint_path(folder, 1)
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text(json.dumps(header_to_dict(header)))


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
        *(([name, "no-run"], "no-run") for name in ("evaluate", "tune", "calibrate", "queries")),
        *(([name], "RUN") for name in ("evaluate", "calibrate", "queries")),
        (["benchmark"], "RUN"),
        *(
            (["evaluate", "run", *words], expected)
            for words, expected in (
                (["--engine", "warp"], "--engine is 'warp', expected auto, eager"),
                (
                    ["--device", "nonsense"],
                    "--device is 'nonsense', expected auto, cpu, cuda",
                ),
                (["--replan-every", "1000"], "planning.replan_every is 1000"),
                (["--eta", "3"], "planning.eta is 3.0"),
                (["--guidance-weight", "nan"], "planning.guidance_weight is nan"),
                (["--denoising-steps", "99"], "planning.denoising_steps is 99"),
            )
        ),
        *(
            ([name, "run", "--device", "cuda:x"], "--device is 'cuda:x', expected")
            for name in ("calibrate", "benchmark")
        ),
        (["calibrate", "run", "--eta", "3"], "planning.eta is 3.0"),
        (["benchmark", "trajectory-diffuser", "--device", "foo"], "--device is 'foo', expected"),
        (["benchmark", "trajectory-diffuser", "--engines", "warp"], "--engines has 'warp'"),
        (["queries", "run"], "answers no queries"),
        (["demo", "--steps", "0"], "--steps is 0"),
        (["datasets", "make", "pointmaze-medium", "--env-steps", "0"], "--env-steps is 0"),
        (["datasets", "make", "maze2d-umaze", "--env-steps", "1"], "expected at least 2"),
        (["family"], "DIR"),
        (["family", "no-study"], "no-study"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refusal_imports_nothing_heavy(args: list[str], expected: str, tmp_path: Path) -> None:
    (tmp_path / "a-run" / "checkpoint-00000001").mkdir(parents=True)
    write_run(tmp_path / "run")
    done = call(args, tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr + done.stdout
    assert done.stdout.splitlines()[-1] == "loaded:"
