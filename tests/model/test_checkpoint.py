"""Checkpoints: whole or not there at all, bit for bit, and refused in one line when damaged."""

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo, Task
from diffplan.errors import DiffplanError
from diffplan.model import checkpoint
from diffplan.model.checkpoint import load_into, load_model, load_tensors, save_checkpoint
from diffplan.model.planner_model import PlannerModel
from diffplan.model.run_folder import (
    Header,
    checkpoint_path,
    find_checkpoint,
    list_checkpoints,
    read_header,
)

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def model(tiny_config: Make, tiny_model: Make, tiny_goal_episodes: Episodes) -> PlannerModel:
    return tiny_model(tiny_config(), tiny_goal_episodes)


@pytest.fixture
def header(model: PlannerModel, tiny_goal_episodes: Episodes) -> Header:
    info = DatasetInfo(
        "pointmaze/x-v0",
        "minari",
        "PointMaze_UMaze-v3",
        {"maze_map": [[1, "g"], [0, 1]], "max_episode_steps": 5},
        (-2.0, -2.0),
        (1.0, 1.0),
        {"seed": 3, "note": "ü"},
    )
    return Header(
        model.config, model.spec, tiny_goal_episodes.layout, info, "20-600-ab", 100, 7, 12.5
    )


def save(run: Path, header: Header, model: PlannerModel, step: int = 100) -> Path:
    extra = {"generator/0": torch.arange(5, dtype=torch.uint8), "optimiser/0/step": torch.ones(())}
    header = dataclasses.replace(header, step=step)
    return save_checkpoint(run, header, model.state_dict(), extra)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(DiffplanError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


# --- Writing -------------------------------------------------------------------------------------


def test_everything_comes_back_bit_for_bit(
    tmp_path: Path, header: Header, model: PlannerModel
) -> None:
    path = save(tmp_path / "runs" / "x", header, model)
    assert path == checkpoint_path(tmp_path / "runs" / "x", 100)
    assert read_header(path) == header
    loaded, again, where = load_model(tmp_path / "runs" / "x")
    assert (again, where) == (header, path)
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert theirs[name].dtype == value.dtype
        assert torch.equal(theirs[name], value)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    extra = load_tensors(path, "training.safetensors")
    assert extra["generator/0"].tolist() == [0, 1, 2, 3, 4]
    assert extra["optimiser/0/step"].shape == ()
    files = sorted(file.name for file in path.iterdir())
    assert files == ["config.json", "model.safetensors", "training.safetensors"]


def test_a_folder_or_a_checkpoint_may_be_named(
    tmp_path: Path, header: Header, model: PlannerModel
) -> None:
    paths = [save(tmp_path, header, model, step) for step in (99_999_999, 20, 100_000_000)]
    assert list_checkpoints(tmp_path) == [paths[1], paths[0], paths[2]]
    assert find_checkpoint(tmp_path) == paths[2]  # the most updates, not the last by name
    assert find_checkpoint(str(paths[1])) == paths[1]
    assert load_model(paths[1])[1].step == 20


def test_older_checkpoints_lose_only_what_resuming_needs(
    tmp_path: Path, header: Header, model: PlannerModel
) -> None:
    old = save(tmp_path, header, model, 1)
    weights = (old / "model.safetensors").read_bytes()
    new = save(tmp_path, header, model, 2)
    assert sorted(f.name for f in old.iterdir()) == ["config.json", "model.safetensors"]
    assert (old / "model.safetensors").read_bytes() == weights
    assert load_model(old)[1].step == 1
    message = refusal(lambda: load_tensors(old, "training.safetensors"))
    assert "only the last checkpoint of a run can be resumed" in message
    assert (new / "training.safetensors").is_file()


@pytest.mark.parametrize("moment", ["first file", "second file", "header", "rename"])
def test_an_interrupted_save_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path,
    header: Header,
    model: PlannerModel,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    old = save(tmp_path, header, model, 1)
    before = {file.name: file.read_bytes() for file in old.iterdir()}
    count = 0

    def fail(*args: object, **kwargs: object) -> None:
        nonlocal count
        count += 1
        if moment == "second file" and count == 1:
            save_file(*args, **kwargs)  # type: ignore[arg-type]
            return
        if moment.endswith("file"):  # a file cut short, as on a full disk
            Path(str(args[1])).write_bytes(b"half of it")
        raise KeyboardInterrupt

    where = {"header": (json, "dumps"), "rename": (checkpoint.os, "replace")}
    owner, name = where.get(moment, (checkpoint, "save_file"))
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, header, model, 2)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [old]
    assert {file.name: file.read_bytes() for file in old.iterdir()} == before
    assert load_model(tmp_path)[1].step == 1


def test_what_a_killed_process_left_is_not_a_checkpoint(
    tmp_path: Path, header: Header, model: PlannerModel
) -> None:
    half = tmp_path / ".writing-0123"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half of it")
    (tmp_path / "checkpoint-notes").mkdir()
    (tmp_path / "checkpoint-00000007").write_text("a file, not a folder")
    assert list_checkpoints(tmp_path) == []
    path = save(tmp_path, header, model, 5)
    assert list_checkpoints(tmp_path) == [path]
    assert not half.exists()


def test_others_may_read_all_of_it_or_nothing(
    tmp_path: Path, header: Header, model: PlannerModel
) -> None:
    before = os.umask(0o027)
    try:
        path = save(tmp_path, header, model)
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o640}


def test_shared_and_sliced_tensors_are_saved_whole(tmp_path: Path, header: Header) -> None:
    base = torch.arange(12.0).view(3, 4)
    path = save_checkpoint(tmp_path, header, {"a": base, "b": base[:, 1], "c": base.t()}, {})
    loaded = load_tensors(path, "model.safetensors")
    assert torch.equal(loaded["b"], base[:, 1])
    assert torch.equal(loaded["c"], base.t())


# --- Mistakes and damage -------------------------------------------------------------------------


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    assert "no folder" in refusal(lambda: load_model(tmp_path / "nowhere"))
    assert "holds no checkpoint" in refusal(lambda: load_model(tmp_path))
    (tmp_path / "file").write_text("")
    assert "file" in refusal(lambda: load_model(tmp_path / "file"))


@pytest.mark.parametrize("size", [0, 4, 100, 0.5, -1])
def test_truncated_weights_are_refused(
    tmp_path: Path, header: Header, model: PlannerModel, size: float
) -> None:
    file = save(tmp_path, header, model) / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(size * len(whole)) if size == 0.5 else int(size)])
    message = refusal(lambda: load_model(tmp_path))
    assert "model.safetensors is truncated or damaged" in message


def test_a_missing_file_is_named(tmp_path: Path, header: Header, model: PlannerModel) -> None:
    path = save(tmp_path, header, model)
    (path / "model.safetensors").unlink()
    assert "has no model.safetensors" in refusal(lambda: load_model(tmp_path))
    (path / "config.json").unlink()
    assert "no config.json" in refusal(lambda: load_model(tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "damaged or not JSON"),
        ("", "damaged or not JSON"),
        ("\udcff\udcfe", "damaged or not JSON"),
        ("[1, 2]", "was not written by diffplan"),
        ('{"model_type": "bert", "hidden_size": 768}', "was not written by diffplan"),
        ('{"diffplan_checkpoint": 99}', "checkpoint format 99"),
        ('{"diffplan_checkpoint": 2}', "by an older version of diffplan"),
        ('{"diffplan_checkpoint": 5}', "lacks the key 'config'"),
    ],
)
def test_a_foreign_header_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "model.safetensors").write_bytes(b"")
    message = refusal(lambda: load_model(tmp_path))
    assert expected in message
    assert "config.json" in message


def edited(path: Path, keys: list[str], value: Any) -> None:
    """Set an entry of a checkpoint's config.json, or delete it where the value is `...`."""
    file = path / "config.json"
    data = json.loads(file.read_text())
    part = data
    for key in keys[:-1]:
        part = part[key]
    if value is ...:
        del part[keys[-1]]
    else:
        part[keys[-1]] = value
    file.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("keys", "value", "expected"),
    [
        (["config", "plan", "horizons"], 3, "unknown key 'config.plan.horizons'"),
        (["config", "plan", "stride"], ..., "lacks the key 'config.plan.stride'"),
        (["config", "heads"], ..., "lacks the key 'config.heads'"),
        (["notes"], 1, "unknown key 'notes'"),
        (["spec", "stateDim"], 4, "unknown key 'spec.stateDim'"),
        (["info", "source"], ..., "lacks the key 'info.source'"),
        (["layout", "rest_columns"], ..., "lacks the key 'layout.rest_columns'"),
        (["layout", "goal_dim"], 3, "goal_columns (0, 1) do not match"),
        (["layout", "state_dim"], 9, "layout.state_dim is 9, but spec.state_dim is 4"),
        (["info", "action_low"], [0.0], "info.action_low: count is 1"),
        (["spec", "action_dim"], -2, "spec.action_dim is -2"),
        (["spec", "state_dim"], "4", "spec.state_dim is '4'"),
        (["step"], "abc", "step is 'abc'"),
        (["step"], -1, "step is -1"),
        (["step"], 2**41, "step is 2199023255552"),
        (["seed"], 1.5, "seed is 1.5"),
        (["seconds"], None, "seconds is None"),
        (["config", "planning", "start"], "nosie", "planning.start is 'nosie'"),
        (["config", "planning", "replan_every"], 99, "planning.replan_every is 99"),
        (["config"], None, "None"),
        (["config"], ..., "'config'"),
        (["layout"], [1], "layout is [1]"),
        (["info", "id"], ..., "id"),
        (["spec", "state_dim"], "four", "state_dim"),
        (["spec"], ..., "'spec'"),
        (["seed"], ..., "'seed'"),
    ],
)
def test_a_wrong_entry_is_named(
    tmp_path: Path,
    header: Header,
    model: PlannerModel,
    keys: list[str],
    value: Any,
    expected: str,
) -> None:
    edited(save(tmp_path, header, model), keys, value)
    assert expected in refusal(lambda: load_model(tmp_path))


def test_a_run_with_settings_of_an_older_version_says_so(
    tmp_path: Path, header: Header, model: PlannerModel
) -> None:
    path = save(tmp_path, header, model)
    edited(path, ["config", "planning", "keep"], 8)
    message = refusal(lambda: load_model(tmp_path))
    assert "unknown key 'config.planning.keep'" in message and "another version" in message
    edited(path, ["diffplan_checkpoint"], 1)
    message = refusal(lambda: load_model(tmp_path))
    assert "config.json was written by an older version of diffplan" in message
    assert "train anew" in message


def test_a_checkpoint_keeps_version_command_and_the_name_of_its_data(
    tmp_path: Path, header: Header, model: PlannerModel
) -> None:
    info = dataclasses.replace(header.info, id="/home/me/data/mine.npz", source="arrays")
    command = "diffplan train x --dataset '/home/me/my data/mine.npz' --out /home/me/runs/x"
    header = dataclasses.replace(header, info=info, command=command)
    found = load_model(save(tmp_path, header, model))[1]
    assert (found.command, found.version) == (command, importlib.metadata.version("diffplan"))
    # what others get to see
    assert found.public.info.id == "mine.npz"
    assert found.public.command == "diffplan train x --dataset mine.npz --out x"
    kept = dataclasses.replace(found.public, info=found.info, command=found.command)
    assert kept == found


def test_folders_are_nowhere_in_what_others_see(header: Header) -> None:
    tasks = tuple(Task(name, None, {}, 4) for name in ("/home/me/a.hdf5", "D4RL/pen/human-v2"))
    details = {"parts": ["/home/me/a.hdf5"], "tasks": {"/home/me/a.hdf5": {"n": 3}}}
    info = dataclasses.replace(header.info, details=details, tasks=tasks).public
    assert [task.name for task in info.tasks] == ["a.hdf5", "D4RL/pen/human-v2"]
    assert info.details == {"parts": ["a.hdf5"], "tasks": {"a.hdf5": {"n": 3}}}
    assert info.env_kwargs == header.info.env_kwargs


def test_the_best_checkpoint_is_the_one_that_was_chosen(
    tmp_path: Path, header: Header, model: PlannerModel
) -> None:
    def best() -> str:
        return find_checkpoint(tmp_path, "best").name

    for step in (10, 20):
        save(tmp_path, header, model, step)
    assert "evaluate" in (message := refusal(best)) and "--checkpoint best" in message
    (tmp_path / "best.json").write_text('{"chosen": 10, "scores": {"10": [2], "20": [1]}}')
    assert best() == "checkpoint-00000010"
    save(tmp_path, header, model, 30)
    assert "of 30 updates" in refusal(best)
    (tmp_path / "best.json").write_text('{"chosen": ')
    assert "damaged" in refusal(best)


def test_weights_of_another_shape_are_named(
    tmp_path: Path, header: Header, model: PlannerModel
) -> None:
    path = save(tmp_path, header, model)
    file = path / "model.safetensors"
    whole = load_file(file)
    name = "plan_scale"

    def with_weights(tensors: dict[str, torch.Tensor]) -> str:
        save_file(tensors, file)
        return refusal(lambda: load_model(tmp_path))

    message = with_weights({**whole, name: torch.ones(3, 4)})
    assert name in message and "[3, 4]" in message and "[4, 4]" in message
    message = with_weights({key: value for key, value in whole.items() if key != name})
    assert "lacks" in message and repr(name) in message
    message = with_weights({**whole, "proposer.extra": torch.ones(1)})
    assert "unknown tensor 'proposer.extra'" in message
    # another model's header beside these weights
    save_file(whole, file)
    edited(path, ["config", "proposer", "width"], 32)
    assert "proposer" in refusal(lambda: load_model(tmp_path))


def test_a_refused_load_changes_nothing(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    before = layer.weight.clone()
    wrong = {"weight": torch.zeros(2, 2), "bias": torch.zeros(3)}
    refusal(lambda: load_into(layer, wrong, tmp_path))
    assert torch.equal(layer.weight, before)
