"""The planner's four stages: what each does, what it keeps exact, what it refuses."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diffplan.config.config import replace_planning
from diffplan.config.sections import PlanningConfig
from diffplan.data.episodes import Episodes
from diffplan.errors import DiffplanError
from diffplan.model.denoiser import Inputs
from diffplan.model.planner_model import PlannerModel
from diffplan.planning import stages
from diffplan.planning.chains import chain_of, matching_level
from diffplan.planning.selection import select, weighed
from diffplan.planning.stages import NormalisedPlan, decode, make_plan

Make = Callable[..., Any]
STARTS = ["process", "sdedit", "raw", "noise", "none"]
SPACES = ["displacement", "absolute"]
SAMPLERS: list[dict[str, Any]] = [
    {"sampler": "ddim"},
    {"sampler": "ddim", "eta": 0.7},
    {"sampler": "ancestral"},
]


def planning(model: PlannerModel, **changes: Any) -> PlanningConfig:
    """The model's settings with changes, checked as a user's would be."""
    clip = {"clip": changes.pop("clip")} if "clip" in changes else {}
    config = replace_planning(model.config, **changes)
    return dataclasses.replace(config.planning, **clip)


@pytest.fixture(scope="session")
def plan_of(plan_inputs: Make) -> Callable[..., NormalisedPlan]:
    """Makes the plan of random inputs."""

    def make(model: PlannerModel, options: PlanningConfig, seed: int = 0) -> NormalisedPlan:
        return make_plan(
            model, *plan_inputs(model, options, seed=seed), options, chain_of(model, options)
        )

    return make


# --- Start rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("start", STARTS[:3])
def test_no_refinement_keeps_the_proposal(
    models: Make, plan_of: Make, plan_inputs: Make, space: str, start: str
) -> None:
    model = models(plan__space=space)
    for options in (
        planning(model, start=start, denoising_steps=0, candidates=3),
        planning(model, start="none", candidates=3),
    ):
        plan = plan_of(model, options)
        torch.testing.assert_close(plan.candidates, plan.proposal, atol=1e-5, rtol=1e-5)
        context, _ = plan_inputs(model, options)
        ours = model.proposer.propose(context)
        torch.testing.assert_close(plan.proposal[:, 0, 1:], ours.states)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("rewards", [True, False])
def test_every_start_plans_from_one_model(
    models: Make, plan_of: Make, start: str, space: str, rewards: bool
) -> None:
    model = models(rewards=rewards, plan__space=space)
    plan = plan_of(model, planning(model, start=start, denoising_steps=3, candidates=4))
    dim = model.spec.state_dim
    assert plan.candidates.shape == plan.proposal.shape == (3, 4, 5, dim)
    assert plan.values.shape == (3, 4)
    assert plan.states.shape == (3, 5, dim)
    assert torch.isfinite(plan.candidates).all()
    best = plan.values.argmax(1)
    assert torch.equal(plan.chosen, best)
    assert torch.equal(plan.states, plan.candidates[torch.arange(3), best])
    if start == "noise":
        assert plan.returns is None
        assert torch.equal(plan.proposal, plan.candidates)
    else:
        assert plan.returns is not None and plan.returns.shape == (3, 4, 4)
        changed = not torch.allclose(plan.candidates, plan.proposal, atol=1e-4)
        assert changed == (start != "none")


@pytest.mark.parametrize(
    ("name", "start", "reason"),
    [
        ("trajectory-diffuser-published", "process", "ends at a = 0.59"),
        ("trajectory-diffuser-published", "noise", "schedule ends at a = 0.59"),
        ("proposer-only", "sdedit", "needs a denoiser"),
        ("proposer-only", "noise", "needs a denoiser"),
        ("from-noise", "process", "needs a proposer"),
        ("from-noise", "sdedit", "needs a proposer"),
        ("from-noise", "raw", "needs a proposer"),
        ("from-noise", "none", "needs a proposer"),
    ],
)
def test_a_start_the_model_cannot_do_is_refused(
    models: Make, plan_of: Make, name: str, start: str, reason: str
) -> None:
    model = models(name)
    options = dataclasses.replace(model.config.planning, start=start, denoising_steps=2)
    with pytest.raises(DiffplanError, match=reason) as error:
        plan_of(model, options)
    assert "\n" not in str(error.value)
    assert repr(start) in str(error.value)


def test_levels_of_every_start(
    models: Make, plan_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which (process, grid) the networks are asked for, and whether they see the proposal."""
    seen: list[tuple[str, tuple[int, ...], bool]] = []
    ours, published = models(), models("trajectory-diffuser-published")
    conditioned = models(
        denoiser__process="ddpm", denoiser__prediction="v", planning__start="sdedit"
    )
    for model in (ours, published, conditioned):
        bind = model.denoiser.bind

        def spy(process: Any, grid: Any, encoded: Any, inputs: Inputs, bind: Any = bind) -> Any:
            seen.append((process.name, grid, inputs.proposal is not None))
            return bind(process, grid, encoded, inputs)

        monkeypatch.setattr(model.denoiser, "bind", spy)

    def asked(model: PlannerModel, **changes: Any) -> tuple[str, tuple[int, ...], bool]:
        seen.clear()
        plan_of(model, planning(model, **changes))
        assert len(seen) == 1
        return seen[0]

    assert asked(ours, start="process", denoising_steps=2) == ("rddm", (10, 5, 0), True)
    assert asked(ours, start="noise", denoising_steps=4) == ("ddpm", (20, 15, 10, 5, 0), False)
    assert asked(ours, start="raw", denoising_steps=3) == ("ddpm", (3, 2, 1, 0), False)
    assert asked(ours, start="sdedit", denoising_steps=2, start_level=8) == (
        "ddpm",
        (8, 4, 0),
        False,
    )
    assert asked(ours, start="raw", denoising_steps=2, start_level=8) == ("ddpm", (8, 4, 0), False)
    level = matching_level(ours, planning(ours, denoising_steps=2))
    assert asked(ours, start="sdedit", denoising_steps=2)[1][0] == level
    # the released settings: the last 5 of 100 levels, one by one, blind to the proposal
    assert asked(published, guidance_weight=1.0) == ("ddpm", (5, 4, 3, 2, 1, 0), False)
    # what goes on from the plan before starts near it, and in its own process
    again = chain_of(ours, planning(ours, start="process"), reuse=True)
    assert again is not None
    assert (again.start, again.process.name, again.grid) == ("sdedit", "rddm", (2, 0))
    # a network trained with proposals throughout sees them on plain DDPM too
    assert asked(conditioned, start="sdedit", denoising_steps=2, start_level=4)[2]


def test_a_start_level_beyond_the_schedule_is_refused(models: Make) -> None:
    model = models()
    for settings in ({"start_level": 21}, {"denoising_steps": 5, "start_level": 3}):
        with pytest.raises(DiffplanError, match=r"planning\.start_level is \d+, expected between"):
            planning(model, start="sdedit", **settings)


def test_the_matching_level_is_nearest_to_the_proposals_error(models: Make) -> None:
    """sigma / a is their error."""
    model = models()
    kept = model.residual_rms.clone()
    process = model.plain_process
    one = planning(model, denoising_steps=1)
    levels = []
    for signal in (0.99, 0.95, 0.8, 0.5, 0.2, 0.01):
        error = math.sqrt(1 / signal**2 - 1)
        model.residual_rms.fill_(error)
        levels.append(level := matching_level(model, one))

        def off(t: int, error: float = error) -> float:
            return abs(process.sigma[t] / process.a[t] - error)

        assert all(off(level) <= off(t) for t in range(1, process.T + 1))
    assert levels == sorted(levels)
    assert len(set(levels)) > 3
    model.residual_rms.fill_(0.01)
    # as many levels as steps at least
    assert matching_level(model, planning(model, denoising_steps=7)) == 7
    model.residual_rms.copy_(kept)


@pytest.mark.parametrize("level", [1, 4, 9, 15])
def test_a_residual_of_known_size_gives_back_its_level(models: Make, level: int) -> None:
    """Proposals a x0 + sigma eps of unit plans: the level is found, within one."""
    model = models()
    kept = model.residual_rms.clone()
    process = model.plain_process
    generator = torch.Generator().manual_seed(level)
    x0 = torch.randn(4000, model.rows * model.plan_dim, generator=generator)
    noised = process.a[level] * x0 + process.sigma[level] * torch.randn(x0.shape)
    # as a proposal of the clean plan it is off by its noise over its signal
    model.residual_rms.fill_(float((noised / process.a[level] - x0).square().mean().sqrt()))
    assert abs(matching_level(model, planning(model, denoising_steps=1)) - level) <= 1
    model.residual_rms.copy_(kept)


def test_the_raw_start_adds_no_noise_and_the_others_do(models: Make, plan_inputs: Make) -> None:
    model = models()
    for start in STARTS:
        options = planning(model, start=start, denoising_steps=2)
        context, noise = plan_inputs(model, options)
        louder = dataclasses.replace(noise, start=noise.start + 1)
        one, other = (
            make_plan(model, context, n, options, chain_of(model, options)) for n in (noise, louder)
        )
        same = torch.allclose(one.candidates, other.candidates)
        assert same == (start in ("raw", "none"))


def test_an_untrained_denoiser_returns_the_proposal(
    tiny_config: Make, plan_of: Make, tiny_model: Make, tiny_goal_episodes: Episodes
) -> None:
    model: PlannerModel = tiny_model(tiny_config(), tiny_goal_episodes)
    assert model.denoiser is not None
    for parameter in model.denoiser.network.parameters():
        torch.nn.init.zeros_(parameter)
    plan = plan_of(model, planning(model, start="process", denoising_steps=3, clip=None))
    torch.testing.assert_close(plan.candidates, plan.proposal, atol=1e-5, rtol=1e-5)


# --- The first state -----------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("weight", [1.0, 1.7])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("space", SPACES)
def test_the_first_state_is_bit_exact(
    models: Make,
    plan_inputs: Make,
    start: str,
    sampler: dict[str, Any],
    weight: float,
    clip: float,
    space: str,
) -> None:
    model = models(plan__space=space)
    options = planning(
        model,
        start=start,
        denoising_steps=3,
        guidance_weight=weight,
        candidates=2,
        clip=clip,
        **sampler,
    )
    context, noise = plan_inputs(model, options, size=20.0)  # far outside the clip
    plan = make_plan(model, context, noise, options, chain_of(model, options))
    for states in (plan.candidates, plan.proposal):
        assert torch.equal(states[:, :, 0], context.state[:, None].expand(-1, 2, -1))
    assert torch.equal(plan.states[:, 0], context.state)
    if clip is not None and space == "absolute" and start != "none":
        assert plan.candidates[:, :, 1:].abs().max() <= clip


def test_the_clip_bounds_plan_units(models: Make, plan_inputs: Make) -> None:
    model = models()
    context, noise = plan_inputs(model, options := planning(model, denoising_steps=1, clip=0.25))
    plan = make_plan(model, context, noise, options, chain_of(model, options))
    x = (plan.states[:, 1:] - plan.states[:, :1]) / model.plan_scale
    assert x.abs().max() <= 0.25 + 1e-5
    assert (x.abs() > 0.2499).any()


# --- Candidates and selection --------------------------------------------------------------------


def test_the_first_candidate_is_the_mean_and_temperature_spreads_the_others(
    models: Make, plan_of: Make
) -> None:
    model = models()
    mean = plan_of(model, planning(model, start="none")).proposal[:, 0]
    spread = []
    for temperature in (0.0, 0.3, 0.6):
        options = planning(model, start="none", candidates=4, temperature=temperature)
        proposals = plan_of(model, options).proposal
        torch.testing.assert_close(proposals[:, 0], mean)
        spread.append((proposals[:, 1:, 1] - mean[:, None, 1]).abs().mean())
        if temperature:
            firsts = proposals[:, :, 1]
            assert all(
                not torch.allclose(firsts[:, i], firsts[:, j]) for i in range(4) for j in range(i)
            )
    assert spread[0] < 1e-6
    torch.testing.assert_close(spread[2], 2 * spread[1], atol=1e-4, rtol=1e-3)


def test_selection_by_value() -> None:
    values = torch.tensor([[0.0, 3.0, 1.0], [2.0, -1.0, 1.0]])
    gumbel = torch.tensor([[0.0, 0.0, 9.0], [0.0, 0.0, 0.0]])
    base = PlanningConfig(candidates=3)
    assert select(values, gumbel, dataclasses.replace(base, select="value")).tolist() == [1, 0]
    assert select(values, gumbel, dataclasses.replace(base, select="softmax")).tolist() == [2, 0]


def test_softmax_selection_has_the_right_frequencies() -> None:
    values = torch.tensor([0.0, 1.0, -0.5, 2.0])
    uniform = torch.rand(40_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    gumbel = -(-uniform.log()).log()
    chosen = select(values.expand(40_000, -1), gumbel, PlanningConfig(select="softmax"))
    frequency = torch.bincount(chosen, minlength=4) / 40_000
    torch.testing.assert_close(frequency, values.softmax(0), atol=0.01, rtol=0)


def test_a_plan_is_worth_the_value_of_its_last_state(models: Make, plan_inputs: Make) -> None:
    model = models()
    options = planning(model, candidates=3)
    context, noise = plan_inputs(model, options)
    plan = make_plan(model, context, noise, options, chain_of(model, options))
    goal = context.goal[:, None].expand(-1, 3, -1)
    expected = model.value(plan.candidates[:, :, -1], goal)
    torch.testing.assert_close(plan.values, expected)


def test_without_a_goal_a_plan_is_worth_the_mean_value_of_its_states(
    models: Make, plan_inputs: Make
) -> None:
    model = models(rewards=True)
    options = planning(model, candidates=3)
    context, noise = plan_inputs(model, options)
    plan = make_plan(model, context, noise, options, chain_of(model, options))
    each = model.value(plan.candidates[:, :, 1:], None)
    torch.testing.assert_close(plan.values, each.mean(-1))


def test_the_published_critic_judges_the_first_action(models: Make, plan_inputs: Make) -> None:
    model = models("trajectory-diffuser-published", rewards=True)
    options = planning(model, candidates=3)
    context, noise = plan_inputs(model, options)
    plan = make_plan(model, context, noise, options, chain_of(model, options))
    here, there = plan.candidates[:, :, 0], plan.candidates[:, :, 1]
    action = model.inverse_dynamics(here, there, torch.ones(3, 3)).clamp(-1, 1)
    torch.testing.assert_close(plan.values, model.value(here, None, action))
    # its softmax is over returns in thousands
    returns = model.returns.inverse(torch.stack([plan.values, 0 * plan.values]).unsqueeze(-1))
    thousands = (returns[0] - returns[1]).squeeze(-1) / 1000
    torch.testing.assert_close(weighed(model, plan.values), thousands)
    # the copies start from one proposal and differ by the noise of the refinement alone
    assert torch.equal(plan.proposal[:, 1], plan.proposal[:, 2])
    assert not torch.allclose(plan.candidates[:, 1], plan.candidates[:, 2])


# --- Guidance ------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["process", "noise"])
def test_guidance_extrapolates_from_the_unconditional_plan(
    models: Make, plan_inputs: Make, start: str
) -> None:
    model = models()

    def refined(weight: float, goal: float = 0.0) -> Tensor:
        options = planning(model, start=start, denoising_steps=1, guidance_weight=weight, clip=None)
        context, noise = plan_inputs(model, options)
        if start == "noise":  # nothing else looks at the goal then
            context = dataclasses.replace(context, goal=context.goal + goal)
        return make_plan(model, context, noise, options, chain_of(model, options)).candidates

    unguided, none, double = refined(1.0), refined(0.0), refined(2.0)
    torch.testing.assert_close(refined(1.0 + 1e-7), unguided, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(double - none, 2 * (unguided - none), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(none, unguided, atol=1e-3)
    if start == "noise":
        torch.testing.assert_close(refined(0.0, goal=1.0), none)
        assert not torch.allclose(refined(1.0, goal=1.0), unguided, atol=1e-3)


# --- Decoding ------------------------------------------------------------------------------------


def test_actions_come_back_in_environment_units(
    models: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models()  # actions in [-2, 1]
    given_lag: list[Tensor] = []

    def fixed(state: Tensor, ahead: Tensor, lag: Tensor, gain: float) -> Tensor:
        assert gain == 1
        given_lag.append(lag)
        return torch.tensor([[-1.0, 1.0], [0.0, 0.5], [-7.0, 3.0]])

    monkeypatch.setattr(model.inverse_dynamics, "forward", fixed)
    lag = torch.tensor([1.0, 0.5, 0.5])
    actions = decode(model, torch.zeros(3, 4), torch.ones(3, 4), lag)
    torch.testing.assert_close(actions, torch.tensor([[-2.0, 1.0], [-0.5, 0.25], [-2.0, 1.0]]))
    assert torch.equal(given_lag[0], lag)
    back = model.scaled_actions(actions)
    torch.testing.assert_close(back, torch.tensor([[-1.0, 1.0], [0.0, 0.5], [-1.0, 1.0]]))


bounds = st.floats(-50, 50, width=32)


@given(low=bounds, width=st.floats(0.0078125, 100, width=32), raw=st.floats(-2, 2, width=32))
def test_actions_never_leave_their_bounds(
    models: Make, low: float, width: float, raw: float
) -> None:
    model = models()
    kept = model.action_low.clone(), model.action_high.clone()
    model.action_low.fill_(low)
    model.action_high.copy_(model.action_low + width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.inverse_dynamics, "forward", lambda *_: torch.full((1, 2), raw))
        action = stages.decode(model, torch.zeros(1, 4), torch.zeros(1, 4), torch.ones(1))
    low_, high_ = model.action_low.clone(), model.action_high.clone()
    model.action_low.copy_(kept[0])
    model.action_high.copy_(kept[1])
    assert (action >= low_).all()
    assert (action <= high_).all()


def test_a_start_that_refines_is_refused_without_a_denoiser(models: Make, plan_of: Make) -> None:
    model = models("proposer-only")
    with pytest.raises(DiffplanError, match="trained without one"):
        plan_of(model, planning(model, start="process", denoising_steps=0))
