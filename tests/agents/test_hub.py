"""Agents in folders and on the hub, whose client is given a cache and an interface of our own."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import hub_mixin

from diffplan.agents import PlannerAgent, hub, load_agent
from diffplan.config.decisions import Decision
from diffplan.errors import DiffplanError
from diffplan.model.checkpoint import save_checkpoint
from diffplan.model.run_folder import Header

Make = Callable[..., Any]
SCORE = {
    "return_mean": 473.07,
    "return_ci95": [461.9, 483.9],
    "success_rate": 0.5,
    "success_ci95": [0.4, 0.6],
    "episodes": 100,
    "command": "diffplan evaluate /home/me/runs/x --seed 1000",
    "engine": "onnx",
    "protocol": "Episode e starts with reset(seed=seed + e).",
    "runs": [{"updates": 20, "selection": None}],
}


@pytest.fixture
def run(tmp_path: Path, make_agent: Make) -> Path:
    """A run of one checkpoint, trained on a file of one's own."""
    agent: PlannerAgent = make_agent()
    info = dataclasses.replace(agent.info, id="/home/me/mine.npz")
    command = "diffplan train x --dataset /home/me/mine.npz"
    header = Header(
        *(agent.model.config, agent.model.spec, agent.layout, info, "12-200-ab", 20, 4, 3.5),
        command=command,
        decisions=(Decision("plan.stride", 2, "states change slowly"),),
    )
    save_checkpoint(tmp_path / "run", header, agent.model.state_dict(), {})
    return tmp_path / "run"


@pytest.fixture
def cache(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub that holds me/planner, with code beside the weights; no network."""
    place = tmp_path / "cache"
    model, commit = place / "models--me--planner", 40 * "a"
    load_agent(run, engine="eager").save_pretrained(model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return place


def test_a_saved_agent_plans_as_before(run: Path, observe: Make, tmp_path: Path) -> None:
    agent = load_agent(run, engine="eager", candidates=2, denoising_steps=2)
    agent.save_pretrained(tmp_path / "saved")
    held = {path.name for path in (tmp_path / "saved").iterdir()}
    assert held == {"README.md", "config.json", "model.safetensors", "tuning.json"}
    expected = agent.predict(observe(2))[0]
    for again in (
        load_agent(tmp_path / "saved", engine="eager"),
        PlannerAgent.from_pretrained(tmp_path / "saved", engine="eager"),
    ):
        assert again.settings == agent.settings
        np.testing.assert_array_equal(again.predict(observe(2))[0], expected)
    assert "/home/me" not in (tmp_path / "saved" / "config.json").read_text()
    # what is given over what it came with is told apart from that
    load_agent(tmp_path / "saved", engine="eager", candidates=3).save_pretrained(tmp_path / "over")
    said = (tmp_path / "over" / "README.md").read_text()
    assert "by hand: candidates 2, denoising_steps 2; over these by hand: candidates 3 |" in said


def test_an_agent_from_nowhere_is_not_saved(make_agent: Make, tmp_path: Path) -> None:
    with pytest.raises(DiffplanError, match="not loaded from a run"):
        make_agent().save_pretrained(tmp_path / "saved")


def test_the_card_states_data_score_command_and_versions(run: Path, tmp_path: Path) -> None:
    agent = load_agent(run, engine="eager")

    def card(name: str) -> str:
        agent.save_pretrained(tmp_path / name)
        return (tmp_path / name / "README.md").read_text()

    said = card("before")
    assert "not evaluated with these settings" in said
    for expected in ("mine.npz, fingerprint `12-200-ab`", "20 updates", "seed 4", "PyTorch"):
        assert expected in said
    assert "| decided from the data | plan.stride = 2: states change slowly |" in said
    assert "`diffplan train x --dataset mine.npz`" in said and "/home/me" not in said
    found = {**SCORE, "planning": agent.planning}
    (run / "results.json").write_text(json.dumps(found))
    said = card("evaluated")
    assert "return 473.1 [461.9, 483.9]; success 50.0% [40.0%, 60.0%]; n = 100" in said
    assert SCORE["protocol"] in said and "`diffplan evaluate x --seed 1000`, engine onnx" in said
    about = huggingface_hub.ModelCard(said).data.to_dict()
    assert about["library_name"] == "diffplan"
    # neither of another checkpoint nor of other settings or plans
    for other in ({"runs": [{"updates": 10}]}, {"planning": {}}, {"engine": "onnx-int8"}):
        (run / "results.json").write_text(json.dumps(found | other))
        assert "not evaluated" in card(str(len(str(other))))


def test_a_model_of_the_hub_is_loaded_by_its_name(cache: Path, run: Path, observe: Make) -> None:
    expected = load_agent(run, engine="eager").predict(observe(2))[0]
    for agent in (
        load_agent("me/planner", engine="eager"),
        PlannerAgent.from_pretrained("me/planner", engine="eager"),
    ):
        np.testing.assert_array_equal(agent.predict(observe(2))[0], expected)


def test_weights_and_json_alone_are_asked_for(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def snapshot(name: str, allow_patterns: list[str], **_: Any) -> str:
        asked.append((name, allow_patterns))
        return str(next(run.iterdir()))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    load_agent("me/planner", engine="eager")
    ((name, files),) = asked
    assert name == "me/planner" and {Path(each).suffix for each in files} == {
        ".json",
        ".safetensors",
    }
    assert "asking the Hugging Face Hub" in capsys.readouterr().err
    # a folder here comes first, and a slip in one that exists is no name of a model
    shutil.copytree(next(run.iterdir()), tmp_path / "me" / "planner")
    load_agent("me/planner", engine="eager")
    for slip in ("me/plonner", "run/other", Path("you/planner"), "you", "a/b/c"):
        with pytest.raises(DiffplanError, match="no folder"):
            load_agent(slip)
    assert len(asked) == 1


def test_without_a_network_one_line_says_so(cache: Path) -> None:
    with pytest.raises(DiffplanError, match="HF_HUB_OFFLINE is set") as error:
        load_agent("me/other")
    assert "\n" not in str(error.value)


def test_a_push_uploads_checkpoint_and_card(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[tuple[str, set[str]]] = []

    class Api:
        def __init__(self, token: str | None) -> None:
            assert token == "mine"

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
            uploads.append((repo_id, {path.name for path in folder_path.iterdir()}))
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(hub_mixin, "HfApi", Api)
    agent = load_agent(run, engine="eager")
    assert agent.push_to_hub("me/planner", token="mine") == "https://hub/me/planner"
    assert uploads == [("me/planner", {"README.md", "config.json", "model.safetensors"})]
