"""`diffplan train` takes its defaults from the data; given options win."""

import dataclasses
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffplan.config.config import Config
from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import Header, list_checkpoints, read_header
from diffplan.scripts.cli import main
from diffplan.scripts.report.files import check_writable
from diffplan.scripts.train import Train
from diffplan.scripts.train.work import d4rl_name, settled, speed

TINY = [
    *("--proposer.width=16", "--denoiser.width=16", "--heads.width=16"),
    "--training.batch-size=8",
]
Command = Callable[..., list[str]]


@pytest.fixture
def rewards(tmp_path: Path, tiny_episodes: Episodes) -> Path:
    """A folder of data with rewards and no goal, named as D4RL's."""
    tiny_episodes.save(tmp_path / "hopper-medium-v2")
    return tmp_path / "hopper-medium-v2"


@pytest.fixture
def command(tmp_path: Path, rewards: Path) -> Command:
    """Makes the words of `diffplan train` on these data, for a small network and few updates."""

    def make(*options: str, config: str = "trajectory-diffuser", steps: int = 2) -> list[str]:
        words = ["train", config, "--dataset", str(rewards), "--out", str(tmp_path / "run")]
        return [*words, "--device", "cpu", "--steps", str(steps), *TINY, *options]

    return make


def _called(info: DatasetInfo, name: str) -> DatasetInfo:
    return dataclasses.replace(info, id=name)


def header(tmp_path: Path) -> Header:
    return read_header(list_checkpoints(tmp_path / "run")[-1])


def trained(tmp_path: Path) -> Config:
    return header(tmp_path).config


def test_what_the_data_decide_is_shown_and_kept(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command()) == 0
    out = capsys.readouterr().out
    first = header(tmp_path)
    assert "plan.stride" in [each.setting for each in first.decisions]
    assert all(f"  {each}\n" in out for each in first.decisions)
    assert out.count("windows/s") == 1
    config = first.config
    assert (config.plan.horizon, config.data.discount, config.heads.width) == (8, 0.999, 16)
    assert not config.is_open(*(each.setting for each in first.decisions))

    assert main(command("--resume", steps=4)) == 0
    assert header(tmp_path).decisions == first.decisions
    assert trained(tmp_path) == config
    assert main(command("--resume", "--plan.horizon=7", steps=5)) == 2
    assert "resume with the same settings" in capsys.readouterr().err
    assert main(command("--resume", "--heads.value=returns", steps=5)) == 2
    assert "heads.value = 'none', got 'returns'" in capsys.readouterr().err


def test_given_options_win(command: Command, tmp_path: Path) -> None:
    given = ["--data.discount=0.99", "--plan.stride=3", "--planning.replan-every=5"]
    words = command(*given)
    assert main(words) == 0
    config, found = trained(tmp_path), header(tmp_path)
    assert shlex.split(str(found.command)) == ["diffplan", *words]
    assert (config.data.discount, config.plan.stride, config.planning.replan_every) == (0.99, 3, 5)
    assert not {"plan.stride", "planning.replan_every"} & {each.setting for each in found.decisions}
    assert config.plan.horizon == 8  # what was not given


def test_the_published_preset_goes_by_the_name_of_the_data(command: Command, rewards: Path) -> None:
    asked = Train.parse(command("--heads.width=8", config="trajectory-diffuser-published")[1:])
    info, layout, said = Episodes.load(rewards).info, Episodes.load(rewards).layout, list[str]()
    config = settled(asked, _called(info, str(rewards)), layout, said.append)
    assert (config.plan.horizon, config.planning.target_return, config.heads.width) == (15, 3100, 8)
    assert "main.py @6bd98fa" in said.pop()
    config = settled(asked, _called(info, "mine.npz"), layout, said.append)
    assert config.planning.target_return is None
    assert "nothing is published" in said.pop() and not said


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("/data/hopper_medium-v2.hdf5", "hopper-medium-v2"),
        ("walker2d-expert", "walker2d-expert-v2"),
        ("hopper_medium-v0.hdf5", "hopper-medium-v0"),
    ],
)
def test_spellings_of_a_name(tiny_episodes: Episodes, given: str, meant: str) -> None:
    assert d4rl_name(_called(tiny_episodes.info, given)) == meant


def test_speed_weighs_lines_by_their_updates(tmp_path: Path) -> None:
    # 10 updates at 100 windows/s and 30 at 300: equally long
    rows = [{"step": 10, "samples_per_second": 100}, {"step": 40, "samples_per_second": 300}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert np.isclose(float(speed(path).split()[1]), 200)


def test_ends_at_a_time_limit_are_the_users_to_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, ends = np.random.default_rng(0), np.arange(400) % 40 == 39
    np.savez(
        tmp_path / "limits.npz",
        observations=rng.normal(size=(400, 3)),
        actions=rng.uniform(-1, 1, (400, 1)),
        rewards=rng.normal(size=400),
        terminations=ends,
        truncations=ends & False,
    )
    words = ["train", "trajectory-diffuser", "--dataset", str(tmp_path / "limits.npz"), "--steps=2"]
    words += ["--out", str(tmp_path / "run"), "--device=cpu", *TINY]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "all 10 episodes that terminate have exactly 40 steps" in said
    assert "Give --terminations as-truncations" in said
    # nothing is left of it, not even a folder on the way
    assert main([*words, "--out", str(tmp_path / "deep" / "run")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["limits.npz"]
    assert main([*words, "--terminations", "as-truncations"]) == 0
    assert header(tmp_path).info.details["terminations"] == "as-truncations"
    # a resume goes on with what was decided, and with nothing else
    resume = [*words, "--resume"]
    assert main([*resume, "--terminations", "as-recorded"]) == 2
    assert "was started with --terminations as-truncations" in capsys.readouterr().err
    assert main([word.replace("--steps=2", "--steps=3") for word in resume]) == 0


def test_a_run_does_not_lie_in_a_dataset(
    command: Command, rewards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in (rewards, rewards / "run"):
        assert main(command("--out", str(out))) == 2
        assert "the folder of a dataset; name another place" in capsys.readouterr().err
    assert not (rewards / "run").exists()


def test_results_replace_no_device_or_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DiffplanError, match="is no regular file; name another place"):
        check_writable(tmp_path / "pipe.json", "--json")
    assert (tmp_path / "pipe.json").is_fifo()


@pytest.mark.parametrize("out", ["a\0b", "a/" * 2000 + "b", "/dev/null"])
def test_a_run_has_a_name_that_a_folder_can_have(
    command: Command, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("--out", out)) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_dataset_in_place_of_the_config_is_told_what_to_say(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for data, run in (("hopper-medium-v2", "hopper-medium-v2"), ("my/data.npz", "data")):
        assert main(["train", data]) == 2
        assert (
            f"diffplan train trajectory-diffuser --dataset {data} --out runs/{run}\n"
            in capsys.readouterr().err
        )


def test_a_run_is_repeated_by_its_own_file(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("--planning.reuse", "--data.discount=0.5", "--seed=3")) == 0
    file, first = tmp_path / "run" / "run.yaml", header(tmp_path)
    assert main(["train", "--config", str(file)]) == 2
    assert "add --resume" in capsys.readouterr().err
    again = ["train", "--config", str(file), "--out", str(tmp_path / "again"), "--track"]
    assert main(again) == 0
    (same,) = list_checkpoints(tmp_path / "again")
    assert read_header(same).config == first.config and read_header(same).seed == 3
    kept = list_checkpoints(tmp_path / "run")[0]
    name = "model.safetensors"
    assert (same / name).read_bytes() == (kept / name).read_bytes()
    assert not (tmp_path / "again" / "tensorboard").exists()
    # what is given beside it wins
    parsed = Train.parse([*again[1:], "--data.discount=0.9", "--planning.no-reuse", "--steps=7"])
    assert (parsed.steps, parsed.seed) == (7, 3)
    assert parsed.given["data.discount"] == 0.9 and parsed.given["planning.reuse"] is False
    assert parsed.given["heads.width"] == 16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("planing: {candidates: 2}", "has no 'planing'; did you mean 'planning'?"),
        ("planning: {candidate: 2}", "has no planning.candidate; did you mean 'candidates'?"),
        ("planning: {candidates: few}", "planning.candidates is 'few', expected: Input should"),
        ("step: 2", "has no 'step'; did you mean 'steps'?"),
        ("config: ours", "unknown config 'ours'"),
        ("- 1", "holds list, expected options by name"),
        ("a: b: c", "is no readable YAML"),
    ],
)
def test_a_file_with_a_mistake_is_refused(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--dataset", "x"]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
