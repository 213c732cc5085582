"""Help and refusals answer at once: nothing heavy is imported before there is work for it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
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
# One process for all: each command line is carried out by a fork of it, which has imported as much
# as a fresh one that has just begun.
SERVE = f"""
import contextlib, io, json, os, sys
from diffplan.scripts.cli import main
for line in sys.stdin:
    folder, args = json.loads(line)
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        print(open(read).read(), flush=True)
        os.wait()
        continue
    os.chdir(folder)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = main(args)
        except SystemExit as stop:
            status = stop.code
        except BaseException as error:
            status = None
            print(repr(error))
    loaded = sorted(set({HEAVY}) & set(sys.modules))
    with open(write, "w") as answer:
        json.dump([status, said.getvalue(), loaded], answer)
    os._exit(0)
"""
Call = Callable[[Sequence[str], Path], tuple[int, str, list[str]]]


@pytest.fixture(scope="module")
def call() -> Iterator[Call]:
    """Carries out a command line in a folder: its status, all it says, and what it imported."""
    root = str(Path(diffplan.__file__).resolve().parents[1])
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE],
        env={**os.environ, "PYTHONPATH": root},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(args: Sequence[str], folder: Path) -> tuple[int, str, list[str]]:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps([str(folder), list(args)]) + "\n")
        server.stdin.flush()
        status, said, loaded = json.loads(server.stdout.readline())
        return status, said, loaded

    with server:
        yield ask


def write_run(folder: Path) -> None:
    """As much of a run as can be read without PyTorch."""
    config = settled(get_config("trajectory-diffuser"), has_goal=False)
    info = DatasetInfo("x", "x", None, {}, (0,), (1,), {})
    header = Header(config, ModelSpec(2, 1, ()), ObservationLayout(2), info, "", 1, 0, 0.0)
    checkpoint = checkpoint_path(folder, 1)
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text(json.dumps(header_to_dict(header)))


@pytest.mark.parametrize("words", [(), *COMMANDS, ("train", "multi-task")], ids=" ".join)
def test_help_imports_nothing_heavy(words: tuple[str, ...], call: Call, tmp_path: Path) -> None:
    status, said, loaded = call([*words, "--help"], tmp_path)
    assert status == 0, said
    assert not loaded


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
def test_a_refusal_imports_nothing_heavy(
    args: list[str], expected: str, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "a-run" / "checkpoint-00000001").mkdir(parents=True)
    write_run(tmp_path / "run")
    status, said, loaded = call(args, tmp_path)
    assert status == 2 and expected in said
    assert not loaded
