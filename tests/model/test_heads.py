"""Multi-task heads: the aggregated forward process, and what heads learn and tell."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffplan.config.config import config_from_dict
from diffplan.config.sections import HeadsConfig
from diffplan.data.batches import Batch
from diffplan.data.episodes import Episodes
from diffplan.data.windows import WindowSampler
from diffplan.diffusion.forward import q_sample
from diffplan.diffusion.process import Process, aggregated
from diffplan.diffusion.processes import SCHEDULES, build_process, ddpm
from diffplan.errors import DiffplanError
from diffplan.model.acting_head import FEATURES
from diffplan.model.context import Context
from diffplan.model.denoiser import Inputs
from diffplan.model.heads import Heads, level_weight, two_hot
from diffplan.model.modalities import MODALITIES, Telling, Told
from diffplan.model.planner_model import PlannerModel
from diffplan.planning.chains import chain_of, network_calls
from diffplan.planning.stages import make_plan
from diffplan.training.losses import Objective

Make = Callable[..., Any]
EVERY = ("actions", "rewards", "returns", "goal")
SHAPES = (4,), (2,), (4, 4)  # of a state, a goal, a plan
BETAS = SCHEDULES["cosine"](20)
PROCESSES = {
    "ddpm": ddpm(BETAS),
    **{
        name: build_process(name, BETAS)
        for name in ("rddm", "interpolant", "resfusion", "diffuse-vae")
    },
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def heads_of(model: PlannerModel) -> Heads:
    assert model.multi_task is not None
    return model.multi_task.heads


def batch_of(model: PlannerModel, episodes: Episodes, rows: int = 16) -> Batch:
    sampler, source = WindowSampler(episodes, model.config, seed=0), generator(7)
    windows = sampler.sample(rows, source)
    plain_rows = Objective(model).plain_rows
    plain = sampler.sample(plain_rows, source) if plain_rows else None
    return Batch(windows, None, None, plain)


# --- The forward process -------------------------------------------------------------------------


def test_the_marginal_is_that_of_the_chain() -> None:
    """z_t = sqrt(alpha_t) (z_{t-1} + w_t E) + sqrt(1 - alpha_t) eps, one step after the other."""
    process = aggregated(PROCESSES["ddpm"], 0.7)
    n, T = 200_000, process.T
    source = generator()
    z0, e = 1.5, -2.0
    z = torch.full((n,), z0)
    for t in range(1, T + 1):
        root = process.a[t] / process.a[t - 1]
        w = 0.7 * process.a[t - 1] / T
        z = root * (z + w * e) + (1 - root**2) ** 0.5 * torch.randn(n, generator=source)
        mean = process.a[t] * z0 + process.c[t] * e
        assert z.mean().item() == pytest.approx(mean, abs=0.015)
        assert z.std().item() == pytest.approx(process.sigma[t], abs=0.015)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_nothing_of_the_aggregate_is_left_at_either_end(process: Process) -> None:
    c = aggregated(process, 1.0).c
    assert c[0] == 0.0 and abs(c[-1]) < 1e-2
    assert max(c) > 0.1


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_without_weight_it_is_the_process_itself(process: Process) -> None:
    assert aggregated(process, 0.0) is process


def test_given_the_aggregate_a_posterior_is_that_of_the_rest() -> None:
    """q(z_s | z_t, z_0, E) by Bayes' rule against DDPM's posterior of z - c E."""
    process = aggregated(PROCESSES["ddpm"], 0.8)
    t, s, z0, e, z_t = 12, 7, 0.6, 1.3, -0.4
    keep = process.a[t] / process.a[s]
    added = sum(
        0.8 * process.a[k - 1] / process.T * process.a[t] / process.a[k - 1]
        for k in range(s + 1, t + 1)
    )
    prior, noise = process.sigma[s] ** 2, process.sigma[t] ** 2 - keep**2 * process.sigma[s] ** 2
    mean_s = process.a[s] * z0 + process.c[s] * e
    gain = prior * keep / (keep**2 * prior + noise)
    bayes = mean_s + gain * (z_t - keep * mean_s - added * e)
    y_t = z_t - process.c[t] * e
    std = process.posterior_std(t, s)
    rest = (process.sigma[s] ** 2 - std**2) ** 0.5
    ours = process.a[s] * z0 + rest * (y_t - process.a[t] * z0) / process.sigma[t]
    assert ours + process.c[s] * e == pytest.approx(bayes, abs=1e-12)
    assert std**2 == pytest.approx(prior * noise / (keep**2 * prior + noise), abs=1e-12)


def test_samples_hold_what_the_table_says() -> None:
    process = aggregated(PROCESSES["rddm"], 0.5)
    x0, proposal, e = (torch.randn(3, 4, 2, generator=generator(i)) for i in range(3))
    t, noise, scale = torch.tensor([1, 5, 10]), torch.zeros(3, 4, 2), torch.ones(4, 2)
    moved = q_sample(process, t, x0, proposal, noise, scale, e)
    still = q_sample(process, t, x0, proposal, noise, scale)
    c = torch.tensor(process.c)[t].view(3, 1, 1)
    torch.testing.assert_close(moved - still, c * e)


# --- Reduction -----------------------------------------------------------------------------------


def _pair(models: Make) -> tuple[PlannerModel, PlannerModel]:
    """A separate model, and one of the same weights with heads that enter nothing."""
    plain = models("trajectory-diffuser", planning__candidates=1)
    shared = models(
        "trajectory-diffuser",
        planning__candidates=1,
        heads__kind="shared",
        heads__modalities=EVERY,
    )
    missing, unexpected = shared.load_state_dict(plain.state_dict(), strict=False)
    assert all(".heads." in name for name in missing)
    assert all(name.split(".")[0] in ("inverse_dynamics", "value") for name in unexpected)
    return plain, shared


def test_without_weight_plans_and_losses_are_those_without_heads(
    models: Make, plan_inputs: Make, tiny_goal_episodes: Episodes
) -> None:
    plain, shared = _pair(models)
    context, noise = plan_inputs(plain, plain.config.planning)
    ours, theirs = (
        make_plan(m, context, noise, m.config.planning, chain_of(m, m.config.planning))
        for m in (shared, plain)
    )
    torch.testing.assert_close(ours.candidates, theirs.candidates, rtol=0, atol=0)
    assert ours.features is not None and theirs.features is None
    batch = batch_of(shared, tiny_goal_episodes)
    ours, theirs = (Objective(m)(batch, generator(3)) for m in (shared, plain))
    for name in ("proposer", "denoiser", "denoiser_plain"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)
    assert {f"head_{name}" for name in EVERY} <= ours.keys()


# --- Heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["mlp", "dit", "unet"])
@pytest.mark.parametrize("space", ["displacement", "absolute"])
def test_every_network_carries_heads(
    network: str, space: str, models: Make, plan_inputs: Make
) -> None:
    model = models(
        "multi-task",
        denoiser__network=network,
        plan__space=space,
        heads__modalities=EVERY,
        heads__aggregation=0.5,
        planning__candidates=3,
    )
    settings = model.config.planning
    context, noise = plan_inputs(model, settings)
    plan = make_plan(model, context, noise, settings, chain_of(model, settings))
    assert plan.features is not None and plan.features.shape == (3, 4, FEATURES)
    assert plan.values.isfinite().all() and plan.states.isfinite().all()
    assert (plan.chosen == plan.values.argmax(1)).all()


def test_encodings_have_unit_size_and_pinned_rows_none(models: Make) -> None:
    model = models(
        "multi-task", plan__space="absolute", heads__modalities=EVERY, heads__aggregation=1.0
    )
    heads = heads_of(model)
    values = {
        name: torch.randn((5, 5, n) if MODALITIES[name].by_row else (5, n), generator=generator(n))
        for name, n in heads.columns.items()
    }
    parts = {name: heads.encode(name, value) for name, value in values.items()}
    for part in parts.values():
        torch.testing.assert_close(part.square().mean((1, 2)), torch.ones(5), atol=1e-3, rtol=0)
    whole = heads.aggregate(parts)
    assert (whole[:, 0] == 0).all() and (whole[:, 1:] != 0).all()
    torch.testing.assert_close(whole[:, 1:], sum(parts.values())[:, 1:] / 2)


def test_what_a_head_says_of_the_return_is_the_mean_of_its_bins(models: Make) -> None:
    heads = heads_of(models("multi-task"))
    logits = torch.full((2, len(heads.bins)), -100.0)
    logits[[0, 1], [3, 7]] = 100.0
    logits[1, 9] = 100.0
    torch.testing.assert_close(heads.value("returns", logits), heads.bins[[3, 8]].unsqueeze(1))


def test_two_hot_weights_average_to_the_value() -> None:
    bins = torch.linspace(-2, 3, 11)
    values = torch.linspace(-2, 3, 37)
    weights = two_hot(values, bins)
    assert ((weights > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(37))
    torch.testing.assert_close((weights * bins).sum(-1), values, atol=1e-5, rtol=0)
    outside = two_hot(torch.tensor([-9.0, 9.0]), bins)
    torch.testing.assert_close((outside * bins).sum(-1), torch.tensor([-2.0, 3.0]))


def test_noisy_levels_count_less_but_never_nothing() -> None:
    process = PROCESSES["ddpm"]
    weight = level_weight(torch.tensor(process.a[1:]), torch.tensor(process.sigma[1:]))
    assert (weight.diff() <= 0).all()
    assert weight[0] == 1.0 and weight[-1] == pytest.approx(0.1)
    # of a signal-to-noise ratio of five all, of half as much half
    snr = torch.tensor([6.0, 5.0, 2.5, 0.1])
    found = level_weight(snr.sqrt(), torch.ones(4))
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 0.5, 0.1]))


@pytest.mark.parametrize("name", EVERY)
def test_a_head_teaches_the_backbone_and_no_other_head(
    name: str, models: Make, tiny_goal_episodes: Episodes
) -> None:
    model = models("multi-task", heads__modalities=EVERY)
    model.zero_grad()
    Objective(model)(batch_of(model, tiny_goal_episodes), generator())[f"head_{name}"].backward()
    heads = heads_of(model)

    def taught(module: torch.nn.Module) -> bool:
        return any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())

    assert {other for other, head in heads.decoders.items() if taught(head)} == {name}
    assert model.denoiser is not None and taught(model.denoiser.network)
    # the last layer makes plans, not plans that are easy to read
    assert not taught(model.denoiser.network.leave)
    assert model.proposer is not None and not taught(model.proposer)


def test_weights_of_the_losses(models: Make) -> None:
    model = models("multi-task", heads__modalities=EVERY)
    heads = heads_of(model)
    raw = {
        name: torch.randn(
            (3, 4, n) if MODALITIES[name].by_row else (3, 51 if name == "returns" else n),
            generator=generator(n),
        )
        for name, n in heads.columns.items()
    }
    values = {n: torch.zeros_like(r[..., :1] if n == "returns" else r) for n, r in raw.items()}
    weights = {n: torch.ones(3, 4) if MODALITIES[n].by_row else torch.ones(3) for n in raw}
    omega = torch.tensor([1.0, 0.5, 0.1])
    found = heads.losses(raw, values, weights, omega)
    for name in ("actions", "goal"):
        each = raw[name].square().mean(tuple(range(1, raw[name].ndim))) * omega
        expected = each * {"actions": 0.3, "goal": 0.15}[name]
        torch.testing.assert_close(found[name], expected)
    # as docs/heads.md has them
    others = {name: MODALITIES[name].weight for name in ("rewards", "returns", "task")}
    assert others == {"rewards": 0.15, "returns": 0.06, "task": 0.03}


def test_half_of_the_samples_hold_what_is_known(
    models: Make, tiny_goal_episodes: Episodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models("multi-task", heads__aggregation=0.5)
    assert model.multi_task is not None
    seen, loss = [], type(model.multi_task).loss
    monkeypatch.setattr(
        model.multi_task, "loss", lambda *a: seen.append(a) or loss(model.multi_task, *a)
    )
    Objective(model)(batch_of(model, tiny_goal_episodes, rows=200), generator())
    ((samples, noising),) = seen
    assert samples.told is not None
    for known in samples.told.known.values():
        assert 0.4 < known.float().mean() < 0.6
    # and the plan is noised around it
    none = {name: torch.zeros_like(known) for name, known in samples.told.known.items()}
    without = dataclasses.replace(samples, told=dataclasses.replace(samples.told, known=none))
    plans = [loss(model.multi_task, each, noising)["plan"] for each in (samples, without)]
    assert not torch.allclose(*plans)


def test_known_data_enter_the_plan_only_with_weight(models: Make) -> None:
    """With everything known, what the network sees is x + c E of the true data."""
    model = models("multi-task", heads__modalities=EVERY, heads__aggregation=0.9)
    denoiser, heads = model.multi_task, heads_of(model)
    assert denoiser is not None
    known = {
        name: torch.randn((2, 4, n) if MODALITIES[name].by_row else (2, n), generator=generator(n))
        for name, n in heads.columns.items()
    }
    process = model.plain_process
    encoded = denoiser.encode(Context(torch.zeros(2, 4), torch.zeros(2, 2)))
    path = model.path_from(torch.zeros(2, 4))
    aware = denoiser.bind(process, (10, 0), encoded, Inputs(telling=Telling(path, known)))
    blind = denoiser.bind(ddpm(BETAS), (10, 0), encoded)
    x = torch.randn(2, 4, 4, generator=generator(9))
    e = heads.aggregate({n: heads.encode(n, v) for n, v in known.items()})
    torch.testing.assert_close(aware(x, 10), blind(x + process.c[10] * e, 10))


def test_what_is_given_enters_only_the_half_with_conditions(models: Make) -> None:
    model = models("multi-task", heads__modalities=("goal",), heads__aggregation=0.9)
    denoiser, process = model.multi_task, model.plain_process
    assert denoiser is not None
    encoded = denoiser.encode(Context(torch.zeros(2, 4), torch.ones(2, 2)))
    path = model.path_from(torch.zeros(2, 4))

    def told(known: dict[str, torch.Tensor]) -> Inputs:
        return Inputs(telling=Telling(path, known))

    given, x = {"goal": torch.ones(2, 2)}, torch.randn(2, 4, 4, generator=generator(9))
    both = denoiser.pair(process, (10, 0), encoded, encoded, told(given))(x, 10)
    for found, known in zip(both, (given, {}), strict=True):
        torch.testing.assert_close(
            found, denoiser.bind(process, (10, 0), encoded, told(known))(x, 10)
        )
    assert not torch.allclose(*both)
    nothing = denoiser.bind(ddpm(BETAS), (10, 0), encoded)(x, 10)
    torch.testing.assert_close(both[1], nothing)


def test_the_head_of_actions_learns_from_real_states(
    models: Make, tiny_goal_episodes: Episodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = models("multi-task"), []
    acting = heads_of(model).acting
    assert acting is not None
    monkeypatch.setattr(acting, "at", lambda *a: seen.append(a) or type(acting).at(acting, *a))
    batch = batch_of(model, tiny_goal_episodes)
    Objective(model)(batch, generator())
    ((_, towards, here, step),) = seen
    assert batch.plain is not None
    windows = [model.normalised_windows(w) for w in (batch.windows, batch.plain)]
    rows = torch.cat(
        [torch.arange(16).repeat_interleave(2), 16 + torch.arange(len(windows[1].states))]
    )
    between = torch.cat([w.between.flatten(1, 2) for w in windows])[rows]
    torch.testing.assert_close(here, between.gather(1, step[..., None].expand(-1, -1, 4)))
    torch.testing.assert_close(towards, torch.cat([w.states for w in windows])[rows])
    # other actions for each noise draw
    assert not torch.equal(step[0:32:2], step[1:32:2])


def test_heads_tell_of_what_is_taken_for_a_plan_what_they_tell_of_one(models: Make) -> None:
    model = models("multi-task", heads__modalities=EVERY)
    denoiser, process = model.multi_task, model.plain_process
    assert denoiser is not None
    state, goal, x = (torch.randn(2, *n, generator=generator(i)) for i, n in enumerate(SHAPES))
    encoded, path = denoiser.encode(Context(state, goal)), model.path_from(state)
    telling = Telling(path, asked=EVERY)
    denoiser.bind(process, (10, 0), encoded, Inputs(telling=telling))(x, 10)
    said = denoiser.tell(process, 10, x, encoded, path, EVERY)
    assert {*said, "kept"} == telling.said.keys()
    for name in EVERY:
        torch.testing.assert_close(said[name], telling.said[name])
    # whatever the level, what is learned of it has the whole weight
    values = {"goal": torch.zeros(2, 2)}
    told = Told(values, {"goal": torch.ones(2)}, {}, path)
    found = denoiser.telling_loss(process, 10, x, Context(state, goal), None, told)
    expected = 0.15 * said["goal"].square().mean(-1)
    torch.testing.assert_close(found["goal"], expected)
    # here, too, the last layer makes plans, not plans that are easy to read
    model.zero_grad()
    torch.stack([each.sum() for each in said.values()]).sum().backward()
    assert all(p.grad is None for p in denoiser.network.leave.parameters())
    assert any(p.grad is not None for p in denoiser.network.parameters())


def test_a_shared_model_needs_no_other_networks(models: Make) -> None:
    shared = models("multi-task", planning__candidates=4)
    planning = shared.config.planning
    # to choose with a goal, the denoiser is asked of states
    assert network_calls(shared, planning) == 4 + planning.denoising_steps + 1
    settings = dataclasses.replace(planning, candidates=1)
    assert network_calls(shared, settings) == 4 + planning.denoising_steps
    assert shared.inverse_dynamics is None and shared.value is None


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"modalities": ["actions", "actions"]}, "none twice"),
        ({"modalities": []}, "one or more"),
        ({"modalities": ["colour"]}, "colour"),
        ({"aggregation": -1.0}, "at least 0"),
        ({"value": "bootstrapped"}, "returns where the denoiser has a head"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(DiffplanError) as error:
        config_from_dict({"heads": {"kind": "shared"} | changes})
    assert part in str(error.value) and "\n" not in str(error.value)


def test_a_head_needs_data_that_have_it(models: Make) -> None:
    with pytest.raises(DiffplanError, match="'goal', which needs a dataset with goals"):
        models("multi-task", rewards=True, heads__modalities=("actions", "goal"))
    with pytest.raises(DiffplanError, match="'task', which needs a dataset of several tasks"):
        models("multi-task", heads__modalities=("actions", "task"))
    separate = dataclasses.replace(models("multi-task").config, heads=HeadsConfig())
    assert not separate.learns_actions
