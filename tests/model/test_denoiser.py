"""One contract for every parametrisation: conversions, conditions, proposals, planning, loss."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from diffplan.diffusion.ddim import ddim
from diffplan.diffusion.forward import coefficients, q_sample, targets_at
from diffplan.diffusion.processes import betas_cosine, betas_linear, ddpm, interpolant, rddm
from diffplan.errors import DiffplanError
from diffplan.model.conditions import ConditionEncoder
from diffplan.model.context import Context
from diffplan.model.denoiser import Denoiser, Inputs, Noising, Samples
from diffplan.nn import NETWORKS, Network
from diffplan.nn.embeddings import GoalFeatures
from diffplan.nn.network import OfPlan

B, H, D, F = 6, 4, 3, 16
GOAL = (0, 1)
COSINE, LINEAR, RDDM = ddpm(betas_cosine(20)), ddpm(betas_linear(100)), rddm(5)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Stub(Network):
    """A network that answers as told and remembers what it was shown."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer
        self.use_proposal = True
        self.seen: list[tuple[Tensor, Tensor | None, Tensor]] = []

    def bind_features(self, proposal: Tensor | None, features: Tensor) -> tuple[OfPlan, ...]:
        def at(level: Tensor) -> OfPlan:
            def body(x: Tensor) -> Tensor:
                given = torch.zeros_like(x) if proposal is None else proposal
                self.seen.append((x, given, level.expand(len(x), -1)))
                return x

            return body

        return tuple(map(at, features.unbind(0)))

    def output(self, h: Tensor) -> Tensor:
        return self.answer(h)


def build(
    network: nn.Module | str = "mlp",
    prediction="x0",
    use_proposal: bool = True,
    **encoder: int | bool | GoalFeatures | None,
) -> Denoiser:
    """A denoiser with random weights everywhere, so that nothing is hidden by a zero layer."""
    torch.manual_seed(0)
    if isinstance(network, str):
        network = NETWORKS[network](H, D, F, use_proposal=use_proposal)
    sizes = {"state_dim": D, "goal": GoalFeatures(D, GOAL), "use_returns": True} | encoder
    denoiser = Denoiser(
        network,
        ConditionEncoder(F, **sizes),
        features=F,
        prediction=prediction,
        use_proposal=use_proposal,
    )
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return denoiser


def context(seed: int = 0, rows: int = B, dtype: torch.dtype = torch.float32) -> Context:
    shapes = (rows, D), (rows, len(GOAL)), (rows,)
    return Context(*(normal(*shape, seed=seed + i).to(dtype) for i, shape in enumerate(shapes)))


DOUBLE = torch.float64
"""For comparing two ways of computing the same."""


# --- Conversions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["x0", "eps", "v", "velocity"])
@pytest.mark.parametrize("use_proposal", [True, False])
@pytest.mark.parametrize("process", [COSINE, LINEAR, RDDM, interpolant(10)])
def test_the_true_answer_gives_back_x0(process, prediction, use_proposal: bool) -> None:
    if prediction == "velocity" and prediction not in process.targets:
        return
    x0, proposal, noise = (normal(B, H, D, seed=seed).double() for seed in range(3))
    scale = torch.rand(H, D).double() + 0.1
    t = torch.full((B,), 4)
    x_t = q_sample(process, t, x0, proposal, noise, scale)
    truth = targets_at(process, prediction, t, x0, proposal, noise, scale)
    if prediction == "x0" and use_proposal:
        truth = truth - proposal  # such a network puts out what the proposal lacks
    denoiser = build(Stub(lambda x: truth), prediction, use_proposal)
    bound = denoiser.bind(process, (4, 0), denoiser.encode(context()), Inputs(proposal, proposal))
    torch.testing.assert_close(bound(x_t, 4), x0, rtol=1e-9, atol=1e-9)


def test_readings_that_do_not_exist_are_refused() -> None:
    with pytest.raises(DiffplanError, match="'eps' cannot give x0 at level 5 of 'rddm'"):
        build(prediction="eps").check_process(RDDM)
    build(prediction="eps").check_process(RDDM, (4, 2))
    with pytest.raises(DiffplanError, match="cannot give x0 at level 5"):
        build(prediction="eps").bind(RDDM, (5, 3, 0), normal(B, F))
    with pytest.raises(DiffplanError, match="'rddm' needs a proposal"):
        build(prediction="v").bind(RDDM, (5, 3, 0), normal(B, F))
    for prediction in ("x0", "eps", "v"):
        build(prediction=prediction).check_process(COSINE)
    for prediction in ("x0", "v"):
        build(prediction=prediction).check_process(RDDM)
    with pytest.raises(DiffplanError, match="has no prediction 'velocity'"):
        build(prediction="velocity").check_process(RDDM)


@pytest.mark.parametrize("network", NETWORKS)
def test_an_untrained_denoiser_returns_the_proposal_and_zero_without(network: str) -> None:
    denoiser = Denoiser(
        NETWORKS[network](H, D, F),
        ConditionEncoder(F, D, GoalFeatures(D, GOAL)),
        features=F,
        prediction="x0",
        use_proposal=True,
    )
    proposal = normal(B, H, D, seed=1)
    for given in (proposal, None):
        bound = denoiser.bind(COSINE, (9, 0), denoiser.encode(context()), Inputs(given))
        expected = torch.zeros_like(proposal) if given is None else given
        assert torch.equal(bound(normal(B, H, D), 9), expected)


# --- Conditions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state", "goal", "target_return"])
def test_a_dropped_condition_has_no_influence_and_the_others_keep_theirs(name: str) -> None:
    # a goal is seen from the state: without one a dropped state is nowhere
    goal = None if name == "state" else GoalFeatures(D, GOAL)
    denoiser, dropped = build(goal=goal), torch.tensor([True, False] * 3)
    given, other = context(), context(seed=10)
    before = denoiser.encode(given, {name: dropped})
    after = denoiser.encode(replace(given, **{name: getattr(other, name)}), {name: dropped})
    changed = (before != after).any(1)
    assert changed.tolist() == (~dropped).tolist()
    plain = denoiser.encode(given)
    assert torch.equal(plain[~dropped], before[~dropped])
    assert (plain[dropped] != before[dropped]).any(1).all()
    for rest in denoiser.encoder.sizes.keys() - {name}:
        moved = replace(given, **{rest: getattr(other, rest)})
        again = denoiser.encode(moved, {name: dropped})
        assert (again != before).any(1).all()


def test_conditions_the_model_lacks_are_ignored_and_missing_ones_named() -> None:
    lean = build(state_dim=0, goal=None, use_returns=True)
    bare = Context(normal(B, D), target_return=context().target_return)
    assert torch.equal(lean.encode(context()), lean.encode(bare))
    with pytest.raises(DiffplanError, match="conditioned on 'target_return', but none was given"):
        lean.encode(Context(state=normal(B, D)))
    with pytest.raises(DiffplanError, match="'goal' needs 2 columns, got 3"):
        build().encode(Context(normal(B, D), normal(B, 3), normal(B)))


def test_a_model_without_conditions_plans_but_cannot_be_guided() -> None:
    bare = build(state_dim=0, goal=None, use_returns=False)
    encoded = bare.encode(context())
    assert bare.bind(COSINE, (20, 0), encoded)(normal(B, H, D), 20).shape == (B, H, D)
    with pytest.raises(DiffplanError, match="needs a model that has conditions"):
        bare.pair(COSINE, (20, 0), encoded, encoded)


def test_repeated_conditions_keep_a_row_s_candidates_together() -> None:
    repeated = context(rows=2).repeat(3)
    assert repeated.target_return is not None
    assert torch.equal(repeated.state[:3], context(rows=2).state[:1].expand(3, D))
    assert torch.equal(repeated.target_return[3:], context(rows=2).target_return[1:].expand(3))
    assert Context(normal(2, D)).repeat(3).goal is None


# --- Proposals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_an_absent_proposal_has_no_influence_in_training(network: str) -> None:
    denoiser, proposal = build(network), normal(B, H, D, seed=1)
    other = torch.where(PLAIN.view(-1, 1, 1), torch.nan, proposal + 1.0)
    first, second = run_loss(denoiser, proposal=proposal), run_loss(denoiser, proposal=other)
    assert torch.equal(first[PLAIN], second[PLAIN])
    assert (first[~PLAIN] != second[~PLAIN]).all()


@pytest.mark.parametrize("network", NETWORKS)
def test_a_proposal_of_zeros_is_not_the_same_as_none(network: str) -> None:
    denoiser, x = build(network), normal(B, H, D)
    encoded = denoiser.encode(context())
    given, absent = (
        denoiser.bind(COSINE, (9, 0), encoded, Inputs(proposal))(x, 9)
        for proposal in (torch.zeros_like(x), None)
    )
    assert not torch.allclose(given, absent, atol=1e-4)


# --- Planning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_bind_is_the_network_with_everything_computed_once(network: str) -> None:
    denoiser, grid = build(network).to(DOUBLE).eval(), (15, 9, 3, 0)
    given = context(dtype=DOUBLE)
    x, proposal = normal(B, H, D).double(), normal(B, H, D, seed=1).double()
    bound = denoiser.bind(COSINE, grid, denoiser.encode(given), Inputs(proposal))
    for t in grid[:-1]:
        time = denoiser.time_features(torch.full((B,), t / COSINE.T))
        features = time + denoiser.encode(given)
        expected = denoiser.network(x, proposal, features) + proposal
        torch.testing.assert_close(bound(x, t), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(bound(x, 15), bound(x, 9), rtol=1e-2)


def test_the_table_of_time_features_is_the_uncached_result() -> None:
    denoiser, levels = build(), (0.05, 0.5, 1.0)
    table = denoiser.time_table(levels)
    assert table.shape == (3, F)
    for row, value in zip(table, levels, strict=True):
        torch.testing.assert_close(denoiser.time_features(torch.tensor([value]))[0], row)
    assert torch.cdist(table, table).fill_diagonal_(1).min() > 1e-2


def test_neighbouring_levels_of_a_long_chain_are_told_apart() -> None:
    denoiser, seen = build(), []
    denoiser.time.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    denoiser.time_table((0.05, 0.06))
    assert (seen[0][0] - seen[0][1]).norm() > 1.0


@pytest.mark.parametrize("proposed", [True, False])
def test_a_pair_is_two_denoisers_in_one_forward(proposed: bool) -> None:
    denoiser, grid, x = build().to(DOUBLE), (5, 2, 0), normal(B, H, D).double()
    inputs = Inputs(normal(B, H, D, seed=1).double() if proposed else None)
    given, everyone = context(dtype=DOUBLE), torch.ones(B, dtype=torch.bool)
    encodings = [
        denoiser.encode(given),
        denoiser.encode(given, {"goal": everyone, "target_return": everyone}),
    ]
    both = denoiser.pair(RDDM, grid, *encodings, inputs)(x, 2)
    for encoded, answer in zip(encodings, both, strict=True):
        alone = denoiser.bind(RDDM, grid, encoded, inputs)(x, 2)
        torch.testing.assert_close(answer, alone, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(*both, rtol=1e-2)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_batch_of_plans_is_its_rows(network: str) -> None:
    denoiser, grid = build(network).to(DOUBLE).eval(), (5, 3, 1, 0)
    x, proposal = normal(B, H, D).double(), normal(B, H, D, seed=1).double()
    scale = torch.rand(H, D, dtype=DOUBLE)

    def plan(rows: slice) -> Tensor:
        given = context(dtype=DOUBLE).rows(rows)
        denoise = denoiser.bind(RDDM, grid, denoiser.encode(given), Inputs(proposal[rows]))
        return ddim(denoise, RDDM, grid, x[rows], proposal=proposal[rows], scale=scale)

    with torch.no_grad():
        together = plan(slice(None))
        for row in range(B):
            alone = plan(slice(row, row + 1))
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-10, atol=1e-10)


# --- Loss ----------------------------------------------------------------------------------------

PLAIN = torch.tensor([True, False, True, False, False, False])


def run_loss(denoiser: Denoiser, **changes) -> Tensor:
    samples = Samples(
        x0=normal(B, H, D),
        proposal=normal(B, H, D, seed=1),
        plain=PLAIN,
        levels=torch.tensor([0.0, 0.0, 0.5, 0.5, 0.99, 0.3]),
        noise=normal(B, H, D, seed=2),
        context=context(),
    )
    scale = torch.rand(H, D, generator=torch.Generator().manual_seed(3))
    noising = Noising(RDDM, COSINE, scale)
    how = {name: changes.pop(name) for name in ("main", "scale", "held") if name in changes}
    return denoiser.loss(replace(samples, **changes), replace(noising, **how))["plan"]


def test_loss_shows_the_network_what_planning_will() -> None:
    """x_t of the row's own process, no proposal in plain rows, the level as t / T."""
    stub = Stub(torch.zeros_like)
    denoiser = build(stub)
    loss = run_loss(denoiser)
    x_t, proposal, features = stub.seen[0]
    x0, given, noise = normal(B, H, D), normal(B, H, D, seed=1), normal(B, H, D, seed=2)
    scale = torch.rand(H, D, generator=torch.Generator().manual_seed(3))
    indices = [1, 1, 11, 3, 5, 2]  # 1 + floor(u T), T = 20 for plain rows and 5 for the others
    assert proposal is not None
    for row, t in enumerate(indices):
        process, there = (COSINE, 0.0) if PLAIN[row] else (RDDM, 1.0)
        spread = 1.0 if PLAIN[row] else scale
        expected = process.a[t] * x0[row] + process.r[t] * given[row]
        expected = expected + process.sigma[t] * spread * noise[row]
        torch.testing.assert_close(x_t[row], expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(proposal[row], there * given[row])
        levels = torch.tensor([t / process.T])
        feature = denoiser.time_features(levels)[0] + denoiser.encode(context())[row]
        if PLAIN[row]:
            feature = feature + denoiser.absent
        torch.testing.assert_close(features[row], feature, rtol=1e-4, atol=1e-5)
        error = x0[row] - there * given[row]  # the network says: stay at the proposal, or at 0
        torch.testing.assert_close(loss[row], error.square().mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_loss_is_on_the_network_s_own_target(prediction) -> None:
    x0, noise = normal(B, H, D), normal(B, H, D, seed=2)
    u = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 0.999])
    t = torch.tensor([1, 21, 41, 61, 81, 100])
    t = torch.where(PLAIN, torch.tensor([1, 5, 9, 13, 17, 20]), t)
    a, _, sigma = coefficients(LINEAR, t.clamp(max=100), x0.dtype)
    plain_a, _, plain_sigma = coefficients(COSINE, t.clamp(max=20), x0.dtype)
    rows = PLAIN.view(-1, 1, 1)
    a, sigma = torch.where(rows, plain_a, a), torch.where(rows, plain_sigma, sigma)
    target = noise if prediction == "eps" else a * noise - sigma * x0
    options = {"proposal": None, "main": LINEAR, "levels": u, "scale": None}
    perfect = build(Stub(lambda x: target), prediction, use_proposal=False)
    assert run_loss(perfect, **options).max() < 1e-9
    off = build(Stub(lambda x: target + 0.5), prediction, use_proposal=False)
    torch.testing.assert_close(run_loss(off, **options), torch.full((B,), 0.25))


def test_loss_weights_plan_states_and_forgets_what_is_masked() -> None:
    denoiser, mask = build(Stub(torch.zeros_like)), torch.ones(B, H)
    mask[:, 2] = 0.0
    mask[0] = 0.0
    mask[1] = torch.tensor([1.0, 2.0, 0.0, 3.0])
    error = (normal(B, H, D) - ~PLAIN.view(-1, 1, 1) * normal(B, H, D, seed=1)).square().mean(-1)
    expected = (mask * error).sum(1) / mask.sum(1).clamp_min(1)
    torch.testing.assert_close(run_loss(denoiser, mask=mask), expected)
    assert run_loss(denoiser, mask=mask)[0] == 0.0


def test_entries_that_are_held_are_clean_and_have_no_weight() -> None:
    stub = Stub(torch.zeros_like)
    denoiser, x0 = build(stub), normal(B, H, D)
    held = torch.zeros(H, D, dtype=torch.bool)
    held[3, 1] = True
    loss = run_loss(denoiser, held=held)
    free = run_loss(denoiser)
    shown, others = stub.seen[0][0], stub.seen[1][0]
    assert torch.equal(shown[:, 3, 1], x0[:, 3, 1])
    assert torch.equal(shown[:, ~held], others[:, ~held])
    error = x0 - ~PLAIN.view(-1, 1, 1) * normal(B, H, D, seed=1)
    torch.testing.assert_close(loss, error[:, ~held].square().mean(1))
    assert not torch.allclose(loss, free, rtol=1e-2)


def test_a_held_first_state_is_clean_and_has_no_weight() -> None:
    stub = Stub(torch.zeros_like)
    denoiser, x0 = build(stub), normal(B, H, D)
    mask = torch.ones(B, H)
    mask[:, 3] = 0.5
    held = torch.zeros(H, D, dtype=torch.bool)
    held[0] = True
    loss = run_loss(denoiser, held=held, mask=mask)
    free = run_loss(denoiser, mask=mask)
    assert torch.equal(stub.seen[0][0][:, 0], x0[:, 0])
    assert torch.equal(stub.seen[0][0][:, 1:], stub.seen[1][0][:, 1:])
    mask[:, 0] = 0.0
    torch.testing.assert_close(loss, run_loss(denoiser, mask=mask))
    assert not torch.allclose(loss, free, rtol=1e-2)


def test_the_highest_level_is_the_last_of_the_table() -> None:
    stub = Stub(torch.zeros_like)
    denoiser = build(stub)
    nearly_one = torch.full((B,), 1.0 - 2**-24)
    for T in (5, 65, 1000):
        run_loss(denoiser, levels=nearly_one, main=rddm(T))
        levels = torch.ones(1)
        expected = denoiser.time_features(levels) + denoiser.encode(context())
        torch.testing.assert_close(stub.seen[-1][2][1], expected[1], rtol=1e-4, atol=1e-4)


def test_a_residual_process_asks_for_proposals_in_training() -> None:
    with pytest.raises(DiffplanError, match="'rddm' needs a proposal"):
        run_loss(build(), proposal=None)
