"""Configurations: read strictly, kept exactly, refused when they cannot work."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffplan.config.config import (
    Config,
    config_from_dict,
    config_to_dict,
    replace_planning,
    settled,
)
from diffplan.config.planners import CONFIGS, get_config
from diffplan.errors import DiffplanError
from diffplan.model.planner_model import PlannerModel
from diffplan.planning.chains import chain_of
from diffplan.planning.stages import make_plan

Make = Callable[..., Any]


def refusal(call: Callable[[], object]) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(DiffplanError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_config_survives_json(name: str) -> None:
    config = get_config(name)
    text = json.dumps(config_to_dict(config), allow_nan=False)
    assert config_from_dict(json.loads(text)) == config
    assert config.name == name
    assert config_from_dict(json.loads(text)) == config


def test_unusual_values_survive_json() -> None:
    config = get_config("trajectory-diffuser")
    odd = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, condition_on_returns=False),
        planning=dataclasses.replace(config.planning, clip=None, start_level=3),
    )
    assert config_from_dict(json.loads(json.dumps(config_to_dict(odd), allow_nan=False))) == odd


def test_how_many_settings_there_are() -> None:
    """A new one is a burden on everybody: a constant with its reason may do."""
    counts = {
        section: len(dataclasses.fields(getattr(Config(), section)))
        for section in (field.name for field in dataclasses.fields(Config))
        if section != "name"
    }
    assert counts == {
        "plan": 5,
        "data": 6,
        "proposer": 4,
        "denoiser": 9,
        "heads": 10,
        "planning": 21,
        "training": 6,
    }


def test_missing_keys_take_their_defaults() -> None:
    assert config_from_dict({"plan": {"horizon": 32}}).plan.horizon == 32
    assert config_from_dict({}) == Config()


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({"plans": {}}, ["unknown key", "'plans'"]),
        ({"denoiser": {"kapa": 1.0}}, ["unknown key", "denoiser.kapa"]),
        ({"plan": {"horizon": "long"}}, ["plan.horizon", "'long'", "integer"]),
        ({"plan": {"horizon": 3.5}}, ["plan.horizon", "3.5", "integer"]),
        ({"planning": {"start": "nosie"}}, ["planning.start", "'nosie'", "'noise'"]),
        ({"training": {"bf16": "perhaps"}}, ["training.bf16", "'perhaps'"]),
        ({"plan": 3}, ["plan", "3"]),
        ({"plan": None}, ["plan", "None"]),
        ([1, 2], ["(top level)", "[1, 2]"]),
        (None, ["(top level)", "None"]),
        ({"plan": {"horizon": 0}}, ["plan.horizon", "0", "at least 1"]),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(data: Any, parts: list[str]) -> None:
    message = refusal(lambda: config_from_dict(data, "RUN/config.json"))
    for part in parts:
        assert part in message
    if "at least" not in message:
        assert message.startswith("RUN/config.json")


def test_an_unknown_name_lists_the_known_ones() -> None:
    message = refusal(lambda: get_config("trajectory-difuser"))
    assert "'trajectory-difuser'" in message
    assert all(name in message for name in CONFIGS)


def test_planning_settings_can_be_replaced() -> None:
    config = settled(get_config("trajectory-diffuser"), has_goal=True)
    changed = replace_planning(config, denoising_steps=3, candidates=8, clip=None)
    assert changed.planning.clip is None
    assert (changed.planning.denoising_steps, changed.planning.candidates) == (3, 8)
    assert changed.planning.replan_every == config.planning.replan_every
    assert dataclasses.replace(changed, planning=config.planning) == config
    message = refusal(lambda: replace_planning(config, steps=3))
    assert "'steps'" in message and "'denoising_steps'" in message
    assert "planning.replan_every" in refusal(lambda: replace_planning(config, replan_every=33))
    assert "'nosie'" in refusal(lambda: replace_planning(config, start="nosie"))
    rewards = settled(get_config("trajectory-diffuser"), has_goal=False)
    assert replace_planning(rewards, target_return=3.0).planning.target == "fixed"
    assert replace_planning(rewards, target_quantile=0.5).planning.target == "by-step"
    assert "'many'" in refusal(lambda: replace_planning(config, denoising_steps="many"))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("plan.horizon", 0, "at least 1"),
        ("plan.stride", 0, "at least 1"),
        ("data.discount", 0.0, "(0, 1]"),
        ("data.discount", 1.1, "(0, 1]"),
        ("data.discount", float("nan"), "(0, 1]"),
        ("data.discount", 1.0, "below 1 with relabel=stitched"),
        ("data.best_of_windows", 0, "at least 1"),
        ("heads.value_ensemble", 0, "at least 1"),
        ("planning.target_quantile", -0.1, "[0, 1]"),
        ("planning.target_return", float("nan"), "a finite number"),
        ("proposer.width", 0, "at least 1"),
        ("denoiser.depth", 0, "at least 1"),
        ("denoiser.levels", 0, "at least 1"),
        ("denoiser.drop_condition", -0.5, "[0, 1]"),
        ("planning.noise_scale", -0.5, "at least 0"),
        ("planning.value_guidance_until", 0, "at least 1"),
        ("heads.gain", 0.0, "above 0"),
        ("heads.gain", float("inf"), "above 0"),
        ("heads.expectile", 1.0, "(0, 1)"),
        ("heads.expectile", 0.0, "(0, 1)"),
        ("planning.denoising_steps", -1, "at least 0"),
        ("planning.denoising_steps", 11, "10 levels of the rddm process"),
        ("planning.candidates", 0, "at least 1"),
        ("planning.temperature", -1.0, "at least 0"),
        ("planning.eta", 1.5, "[0, 1]"),
        ("planning.start_level", 0, "between planning.denoising_steps"),
        ("planning.replan_every", 0, "at least 1"),
        ("planning.replan_every", 33, "at most the 32 environment steps of a plan"),
        ("training.batch_size", 0, "at least 1"),
        ("training.learning_rate", float("nan"), "above 0"),
        ("training.ema", 1.2, "[0, 1]"),
    ],
)
def test_what_cannot_work_is_refused(name: str, value: Any, expected: str) -> None:
    group, _, option = name.partition(".")
    config = settled(Config(), has_goal=True)
    part = dataclasses.replace(getattr(config, group), **{option: value})
    message = refusal(lambda: dataclasses.replace(config, **{group: part}))
    assert message.startswith(f"{name} is {value!r}, expected ")
    assert expected in message


@pytest.mark.parametrize(
    ("changes", "name", "expected"),
    [
        (
            {"denoiser.process": "ddpm", "denoiser.condition_on_proposal": False},
            "planning.start",
            "noise for a network that sees no proposal",
        ),
        (
            {"denoiser.process": "ddpm", "denoiser.schedule": "linear"},
            "denoiser.schedule",
            "cosine where planning starts at the end",
        ),
        (
            {"denoiser.process": "resfusion", "planning.denoising_steps": 15},
            "planning.denoising_steps",
            "14 levels",
        ),
        (
            {"denoiser.prediction": "eps"},
            "denoiser.process",
            "cannot give x0 at level 10 of 'rddm'",
        ),
        (
            {"denoiser.prediction": "velocity"},
            "denoiser.process",
            "'rddm' has no prediction 'velocity'; it has x0, eps, v",
        ),
        (
            {
                "planning.start": "noise",
                "denoiser.process": "ddpm",
                "denoiser.condition_on_proposal": False,
                "denoiser.prediction": "velocity",
            },
            "denoiser.prediction",
            "x0, eps or v without proposals",
        ),
        ({"plan.pin_goal": True}, "plan.space", "absolute"),
        ({"plan.pin_goal": True, "plan.space": "absolute"}, "data.relabel", "hindsight"),
        ({"heads.kind": "in-plan"}, "heads.kind", "proposals hold no actions"),
        (
            {
                "planning.guidance_weight": 2.0,
                "denoiser.drop_condition": 0.0,
            },
            "planning.guidance_weight",
            "1 (conditional)",
        ),
        (
            {"planning.start": "noise", "planning.denoising_steps": 21},
            "planning.denoising_steps",
            "20 levels of the ddpm process",
        ),
        (
            {"planning.start": "noise", "planning.denoising_steps": 0},
            "planning.denoising_steps",
            "at least 1",
        ),
        (
            {"planning.start": "sdedit", "denoiser.condition_on_proposal": False},
            "planning.start",
            "plain DDPM samples",
        ),
        (
            {
                "heads.kind": "in-plan",
                "heads.gain": 2.0,
                "planning.start": "noise",
                "denoiser.process": "ddpm",
                "denoiser.condition_on_proposal": False,
            },
            "heads.gain",
            "1 where actions are planned",
        ),
        ({"denoiser.levels": 1}, "denoiser.process", "at least 1 step, got T=0"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(
    tiny_config: Make, changes: dict[str, Any], name: str, expected: str
) -> None:
    message = refusal(lambda: tiny_config(changes=changes))
    assert message.startswith(f"{name} is ")
    assert expected in message


FROM_NOISE = ("from-noise", "diffuser", "decision-diffuser", "diffusion-veteran", "streams")
UNREFINED = ("proposer-only", "transformer-proposer")


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("kind", ["goals", "rewards"])
def test_every_config_plans(name: str, kind: str, models: Make, plan_inputs: Make) -> None:
    tuned = get_config(name).planning
    model: PlannerModel = models(
        name,
        rewards=kind == "rewards",
        planning__denoising_steps=tuned.denoising_steps,
        planning__candidates=tuned.candidates,
    )
    settings = model.config.planning
    context, noise = plan_inputs(model, settings, rows=2)
    plan = make_plan(model, context, noise, settings, chain_of(model, settings))
    shape = (model.config.plan.horizon + 1, model.spec.state_dim)
    assert plan.states.shape == (2, *shape)
    assert plan.candidates.shape == plan.proposal.shape == (2, settings.candidates, *shape)
    assert torch.isfinite(plan.states).all()
    assert torch.equal(plan.states[:, 0], context.state)
    assert (model.proposer is None) == (name in FROM_NOISE)
    assert (model.denoiser is None and model.streams is None) == (name in UNREFINED)
    assert (plan.actions is not None) == (name in ("diffuser", "streams"))
    assert (plan.features is not None) == (name == "multi-task")
    assert (model.inverse_dynamics is None) == (name in ("multi-task", "streams"))
    assert model.proposer is None or model.proposer.autoregressive
