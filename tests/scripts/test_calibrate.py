"""`diffplan calibrate`: from a trained run to statistics that dpm-solver-v3 can be run with."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from diffplan.agents import load_agent
from diffplan.data.episodes import Episodes
from diffplan.diffusion.processes import betas_cosine, ddpm
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import list_checkpoints
from diffplan.planning.calibration import FILE, GAUSSIAN, load_statistics
from diffplan.planning.chains import Chain, chain_of
from diffplan.scripts.cli import main

PNG = b"\x89PNG\r\n\x1a\n"
FEW = ["--samples", "40"]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny_episodes: Episodes, tiny_options: list[str]
) -> Path:
    """A folder with data, and a run with two checkpoints trained on them."""
    folder = tmp_path_factory.mktemp("calibrate")
    tiny_episodes.save(folder / "data")
    words = ["train", "trajectory-diffuser", "--dataset", str(folder / "data")]
    words += ["--out", str(folder / "run"), "--steps", "4", "--checkpoint-every", "2"]
    assert main([*words, "--device", "cpu", "--preset", "none", *tiny_options]) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run; the data stay where they are."""
    return Path(shutil.copytree(trained / "run", tmp_path / "run"))


def test_statistics_and_a_picture_beside_the_weights(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["calibrate", str(run), "--start", "noise", *FEW]
    assert main(words) == 0
    checkpoint = list_checkpoints(run)[-1]
    out = capsys.readouterr().out
    assert f"wrote {checkpoint / FILE}" in out
    assert "ddpm, 20 levels, start noise, " in out
    assert "guidance_weight 1.0, clip 5.0, from 40 plans" in out
    assert "own plans" not in out
    assert (checkpoint / "calibration.png").read_bytes().startswith(PNG)
    first = load_statistics(run)
    assert first.a == ddpm(betas_cosine(20)).a
    assert first.l.shape == (21, 4, 3) and first.details["samples"] == 40
    assert main(words) == 0  # again: over the first, with the same numbers
    assert torch.equal(load_statistics(run).b, first.b)
    assert main([*words, "--seed", "1"]) == 0
    assert not torch.equal(load_statistics(run).b, first.b)
    assert not list(checkpoint.glob(".*"))


def test_options_reach_the_statistics(run: Path) -> None:
    checkpoints = list_checkpoints(run)
    words = ["calibrate", str(run), "--start", "sdedit", "--guidance-weight", "1.5", *FEW]
    assert main([*words, "--average", "horizon", "--checkpoint", "2"]) == 0
    assert not (checkpoints[-1] / FILE).exists()
    found = load_statistics(checkpoints[0])
    assert found.conditions["guidance_weight"] == 1.5
    assert found.details["averaged"] == "batch and horizon"
    assert torch.equal(found.l[:, 0], found.l[:, 1])


def test_without_the_data_the_models_own_plans_do(
    run: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["calibrate", str(run), "--start", "noise", *FEW]
    assert main(words) == 0
    with_data = load_statistics(run)
    (trained / "data").rename(tmp_path / "elsewhere")
    try:
        capsys.readouterr()
        assert main(words) == 0
    finally:
        (tmp_path / "elsewhere").rename(trained / "data")
    assert "from the model's own plans, at states like the data's: " in capsys.readouterr().out
    assert not torch.equal(load_statistics(run).b, with_data.b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--start", "process"],
            r"start is 'process', which begins at level 10 of 'rddm'.*--start noise or sdedit",
        ),
        (["--start", "none"], "refines nothing"),
        (["--samples", "1"], "--samples must be at least 2, got 1"),
        (["--checkpoint", "9"], "checkpoint-00000009"),
    ],
)
def test_mistakes_get_one_line(
    options: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(run), *options]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1
    assert not list(run.rglob(FILE))


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(tmp_path / "nothing")]) == 2
    assert "expected a run folder made by `diffplan train`" in capsys.readouterr().err


def test_an_unknown_start_is_refused_with_the_known_ones(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(run), "--start", "elsewhere"]) == 2
    error = capsys.readouterr().err
    assert "--start" in error and "'noise'" in error


def test_a_gaussian_to_teleport_with(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = list_checkpoints(run)[-1]
    with pytest.raises(DiffplanError, match=r"has no gaussian\.safetensors, which start teleport"):
        load_agent(run, start="teleport")
    assert main(["calibrate", str(run), "--start", "teleport"]) == 0
    assert re.search(r"a Gaussian of 8192 plans, 12 numbers each", capsys.readouterr().out)
    assert not (checkpoint / FILE).exists()
    states = np.zeros((2, 3), np.float32)
    agents = [
        load_agent(run, start="teleport", denoising_steps=2, start_level=level, engine="eager")
        for level in (None, 3, 15)
    ]
    for agent, level in zip(agents[1:], (3, 15), strict=True):
        chain = chain_of(agent.model, agent.settings)
        assert isinstance(chain, Chain) and chain.grid[0] == level
    plans = [agent.predict(states)[1].plan.states for agent in agents]
    assert not torch.equal(plans[1], plans[2])
    assert len(plans[0].unique(dim=0)) == 2  # rows have noise of their own
    (checkpoint / GAUSSIAN).write_bytes(b"torn")
    with pytest.raises(DiffplanError, match="is damaged"):
        load_agent(run, start="teleport")


def test_teleport_needs_its_gaussian_and_its_data(
    run: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_agent(run).model
    with pytest.raises(DiffplanError, match="has no Gaussian of its plans"):
        chain_of(model, dataclasses.replace(model.config.planning, start="teleport"))
    (trained / "data").rename(tmp_path / "elsewhere")
    try:
        assert main(["calibrate", str(run), "--start", "teleport"]) == 2
    finally:
        (tmp_path / "elsewhere").rename(trained / "data")
    assert "start teleport is measured in the training data, but" in capsys.readouterr().err
