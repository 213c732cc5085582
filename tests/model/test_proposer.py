"""Proposers: what they may look at, what they carry, and what their losses teach."""

from typing import Any

import pytest
import torch
from torch import Tensor

from diffplan.config.sections import ProposerConfig
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.model.proposer import build_proposer
from diffplan.model.proposer.autoregressive import AutoregressiveProposer
from diffplan.model.proposer.base import Proposal, Proposer, ProposerSpec, spread_loss
from diffplan.nn.embeddings import GoalFeatures

H, D = 6, 3
WAYS = [
    ("markov", "free-running"),
    ("markov", "teacher-forced"),
    ("gru", "free-running"),
    ("gru", "teacher-forced"),
    ("transformer", "teacher-forced"),
    ("one-shot", "free-running"),
]
AUTOREGRESSIVE = WAYS[:-1]
SEQUENTIAL = ["markov", "gru", "transformer"]


def make(kind: str, training: str, *, goal: bool = True, returns: bool = True) -> Proposer:
    """A small proposer with uneven scales and random weights."""
    torch.manual_seed(0)
    config: dict[str, Any] = {"kind": kind, "training": training, "width": 16}
    columns = (0, 1) if goal else ()
    spec = ProposerSpec(H, D, GoalFeatures(D, columns), returns)
    proposer = build_proposer(spec, ProposerConfig(**config))
    steps = torch.arange(1, H + 1).unsqueeze(-1)
    proposer.plan_scale.copy_(steps.sqrt() * torch.tensor([0.3, 0.5, 0.1]))
    for parameter in proposer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return proposer.eval()


def inputs(rows: int, proposer: Proposer, seed: int = 0) -> tuple[Tensor, Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(rows, D, generator=generator)
    goal = torch.randn(rows, 2, generator=generator)
    target = torch.randn(rows, generator=generator)
    spec = proposer.spec
    return start, goal if spec.goal.columns else None, target if spec.use_returns else None


def windows(rows: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """States [B, H+1, D] and returns [B, H+1]."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(rows, H + 1, D + 1, generator=generator).cumsum(1) * 0.3
    return steps[..., :D], steps[..., D]


def loss_of(
    proposer: Proposer, states: Tensor, goal: Any, returns: Tensor, mask: Tensor
) -> tuple[Tensor, Proposal]:
    return proposer.loss(Context(states[:, 0], goal, returns[:, 0]), states, returns, mask)


def tokens_of(proposer: Proposer, states: Tensor, goal: Any, returns: Any) -> Tensor:
    length = states.shape[1]
    every = None if goal is None else goal[:, None].expand(-1, length, -1)
    return proposer.token(Context(states, every, returns))


@pytest.mark.parametrize(("kind", "training"), WAYS)
@pytest.mark.parametrize("goal", [True, False])
@pytest.mark.parametrize("returns", [True, False])
def test_shapes(kind: str, training: str, goal: bool, returns: bool) -> None:
    proposer = make(kind, training, goal=goal, returns=returns)
    start, target_goal, target = inputs(4, proposer)
    proposal = proposer.propose(Context(start, target_goal, target), torch.randn(4, H, D + 1))
    assert proposal.states.shape == (4, H, D)
    assert proposal.returns.shape == (4, H)
    states, later = windows(4)
    loss, proposal = loss_of(proposer, states, target_goal, later, torch.ones(4, H))
    assert loss.shape == (4,)
    assert torch.isfinite(loss).all()
    assert proposal.states.shape == (4, H, D)
    assert not proposal.states.requires_grad and not proposal.returns.requires_grad


def test_only_the_one_shot_head_is_not_autoregressive() -> None:
    assert not make("one-shot", "free-running").autoregressive
    for kind, training in AUTOREGRESSIVE:
        assert make(kind, training).autoregressive


@pytest.mark.parametrize("kind", SEQUENTIAL)
@pytest.mark.parametrize("returns", [True, False])
def test_a_cached_proposal_equals_recomputing_everything(kind: str, returns: bool) -> None:
    proposer = make(kind, "teacher-forced", returns=returns).double()
    assert isinstance(proposer, AutoregressiveProposer)
    start, goal, target = (None if t is None else t.double() for t in inputs(3, proposer))
    assert start is not None
    noise = torch.randn(3, H, D + 1, generator=torch.Generator().manual_seed(5)).double()
    proposal = proposer.propose(Context(start, goal, target), noise)
    states = start[:, None]
    later = None if target is None else target[:, None]
    told = []
    for k in range(H):  # the whole past again at every step
        features = proposer.sequence_features(tokens_of(proposer, states, goal, later))
        mean, log_std = proposer._gaussian(features[:, -1:])
        change = mean + noise[:, k : k + 1] * log_std.exp()
        following = states[:, -1:] + proposer.plan_scale[:1] * change[..., :-1]
        states = torch.cat([states, following], 1)
        told.append(change[..., -1] if later is None else later[:, -1:] + change[..., -1])
        if later is not None:
            later = torch.cat([later, told[-1]], 1)
    torch.testing.assert_close(proposal.states, states[:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(proposal.returns, torch.cat(told, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_no_step_sees_the_future(kind: str) -> None:
    proposer = make(kind, "teacher-forced")
    assert isinstance(proposer, AutoregressiveProposer)
    tokens = torch.randn(2, H, proposer.spec.token_dim, generator=torch.Generator().manual_seed(3))
    before = proposer.sequence_features(tokens)
    for k in range(H):
        changed = tokens.clone()
        changed[:, k] += 10
        after = proposer.sequence_features(changed)
        assert torch.equal(after[:, :k], before[:, :k])
        assert not torch.allclose(after[:, k], before[:, k])
    remembers = kind != "markov"
    changed = tokens.clone()
    changed[:, 0] += 10
    last = proposer.sequence_features(changed)[:, -1]
    assert torch.allclose(last, before[:, -1]) != remembers


@pytest.mark.parametrize(("kind", "training"), WAYS)
@pytest.mark.parametrize("returns", [True, False])
def test_training_proposes_as_planning_does(kind: str, training: str, returns: bool) -> None:
    proposer = make(kind, training, returns=returns)
    states, later = windows(4)
    _, goal, _ = inputs(4, proposer)
    _, ours = loss_of(proposer, states, goal, later, torch.ones(4, H))
    theirs = proposer.propose(Context(states[:, 0], goal, later[:, 0] if returns else None))
    torch.testing.assert_close(ours.states, theirs.states)
    torch.testing.assert_close(ours.returns, theirs.returns)


def test_proposals_in_training_are_without_dropout() -> None:
    spec = ProposerSpec(H, D, GoalFeatures(D, ()), False)
    config = ProposerConfig("transformer", "teacher-forced", width=16)
    proposer = build_proposer(spec, config).train()
    states, later = windows(4)
    first_loss, first = loss_of(proposer, states, None, later, torch.ones(4, H))
    second_loss, second = loss_of(proposer, states, None, later, torch.ones(4, H))
    assert torch.equal(first.states, second.states)
    assert not torch.equal(first_loss, second_loss)
    assert all(module.training for module in proposer.modules())


@pytest.mark.parametrize(("kind", "training"), WAYS)
def test_without_noise_a_proposal_is_its_mean(kind: str, training: str) -> None:
    proposer = make(kind, training)
    given = Context(*inputs(3, proposer))
    mean = proposer.propose(given)
    assert torch.equal(mean.states, proposer.propose(given).states)
    silent = proposer.propose(given, torch.zeros(3, H, D + 1))
    torch.testing.assert_close(silent.states, mean.states, atol=0, rtol=0)
    noise = torch.randn(3, H, D + 1, generator=torch.Generator().manual_seed(4))
    there, back = proposer.propose(given, noise), proposer.propose(given, -noise)
    assert not torch.allclose(there.states[:, 0], mean.states[:, 0])
    assert not torch.allclose(there.returns, mean.returns)
    # the first step is Gaussian around the mean, and twice the temperature is twice as far
    middle = (there.states[:, 0] + back.states[:, 0]) / 2
    torch.testing.assert_close(middle, mean.states[:, 0], atol=1e-5, rtol=1e-5)
    far = proposer.propose(given, 2 * noise)
    torch.testing.assert_close(
        far.states[:, 0] - mean.states[:, 0],
        2 * (there.states[:, 0] - mean.states[:, 0]),
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize(("kind", "training"), WAYS)
def test_rows_do_not_see_each_other(kind: str, training: str) -> None:
    proposer = make(kind, training)
    start, goal, target = inputs(4, proposer)
    other_start, other_goal, other_target = inputs(4, proposer, seed=9)
    proposal = proposer.propose(Context(start, goal, target))
    mixed = proposer.propose(
        Context(
            torch.cat([start[:2], other_start[2:]]),
            torch.cat([goal[:2], other_goal[2:]]),
            torch.cat([target[:2], other_target[2:]]),
        )
    )
    assert torch.equal(mixed.states[:2], proposal.states[:2])
    assert not torch.allclose(mixed.states[2:], proposal.states[2:])
    alone = proposer.propose(Context(start, goal, target).rows(slice(1, 2)))
    torch.testing.assert_close(alone.states[0], proposal.states[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "training"), WAYS)
def test_conditions_matter(kind: str, training: str) -> None:
    proposer = make(kind, training)
    start, goal, target = inputs(4, proposer)
    proposal = proposer.propose(Context(start, goal, target))
    for changed in (Context(start, goal + 1, target), Context(start, goal, target + 1)):
        assert not torch.allclose(proposer.propose(changed).states, proposal.states)


@pytest.mark.parametrize(("kind", "training"), WAYS)
def test_masked_steps_teach_nothing(kind: str, training: str) -> None:
    proposer = make(kind, training)
    states, later = windows(4)
    _, goal, _ = inputs(4, proposer)
    mask = torch.ones(4, H)
    mask[:, 3:] = 0
    loss, _ = loss_of(proposer, states, goal, later, mask)
    states, later = states.clone(), later.clone()
    states[:, 4:] += 100  # plan states 4 and 5 are masked: entries 3 and 4 of the mask
    later[:, 4:] -= 100
    torch.testing.assert_close(loss_of(proposer, states, goal, later, mask)[0], loss)
    states[:, 3] += 1
    assert not torch.allclose(loss_of(proposer, states, goal, later, mask)[0], loss)
    assert torch.isfinite(loss_of(proposer, states, goal, later, 0 * mask)[0]).all()


@pytest.mark.parametrize(("kind", "training"), WAYS)
def test_training_lowers_the_free_running_error(kind: str, training: str) -> None:
    torch.manual_seed(0)
    spec = ProposerSpec(H, D, GoalFeatures(D, (0, 1)), True)
    config = ProposerConfig(kind, training, width=32)
    proposer = build_proposer(spec, config)
    proposer.plan_scale.fill_(0.6)
    start, goal, target = inputs(256, proposer)
    states, later = [start], [target]
    for _ in range(H):  # towards the goal, the third column grows, the return falls
        here = states[-1]
        change = torch.cat([goal - here[:, :2], torch.ones_like(here[:, 2:])], 1)
        states.append(here + 0.25 * change)
        later.append(later[-1] - 0.2)
    window, returns = torch.stack(states, 1), torch.stack(later, 1)
    mask = torch.ones(256, H)

    def error() -> float:
        with torch.no_grad():
            proposal = proposer.propose(Context(start, goal, target))
        return float((proposal.states - window[:, 1:]).square().mean())

    before, losses = error(), []
    optimiser = torch.optim.Adam(proposer.parameters(), lr=1e-2)
    for _ in range(80):
        loss = loss_of(proposer, window, goal, returns, mask)[0].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) / 10 < 0.3 * losses[0]
    assert error() < 0.15 * before


@pytest.mark.parametrize(("kind", "training"), WAYS)
@pytest.mark.parametrize("returns", [True, False])
def test_a_trajectory_proposed_without_error_costs_nothing_but_its_spread(
    kind: str, training: str, returns: bool
) -> None:
    proposer = make(kind, training, returns=returns)
    start, goal, target = inputs(4, proposer)
    proposal = proposer.propose(Context(start, goal, target))
    first = torch.zeros(4) if target is None else target
    states = torch.cat([start[:, None], proposal.states], 1)
    later = torch.cat([first[:, None], proposal.returns], 1)
    if isinstance(proposer, AutoregressiveProposer):
        past = later[:, :-1] if returns else None
        features = proposer.sequence_features(tokens_of(proposer, states[:, :-1], goal, past))
        log_std = proposer._gaussian(features)[1]
    else:
        log_std = proposer._gaussian(proposer.token(Context(start, goal, target)))[1]
    mask = torch.ones(4, H)
    loss = loss_of(proposer, states, goal, later, mask)[0]
    torch.testing.assert_close(loss, 0.1 * log_std.mean((1, 2)), atol=1e-5, rtol=1e-4)
    for wrong in (states, later):  # and any other trajectory costs more
        kept = wrong.clone()
        wrong[:, 2] += 0.1
        assert (loss_of(proposer, states, goal, later, mask)[0] > loss + 1e-3).all()
        wrong.copy_(kept)


def test_a_silent_network_stays_where_it_is() -> None:
    for kind, training in WAYS:
        proposer = make(kind, training)
        for parameter in proposer.parameters():
            torch.nn.init.zeros_(parameter)
        start, goal, target = inputs(2, proposer)
        proposal = proposer.propose(Context(start, goal, target))
        assert torch.equal(proposal.states, start[:, None].expand(-1, H, -1))
        if kind != "one-shot":  # these tell the change of the return-to-go
            assert torch.equal(proposal.returns, target[:, None].expand(-1, H))


def test_the_spread_fits_the_error_and_leaves_the_mean_alone() -> None:
    error = torch.tensor([0.5, -2.0], requires_grad=True)
    log_std = error.detach().abs().log().requires_grad_()
    spread_loss(log_std, error).sum().backward()
    assert error.grad is None
    torch.testing.assert_close(log_std.grad, torch.zeros(2), atol=1e-6, rtol=0)
    wide = (log_std.detach() + 0.5).requires_grad_()
    spread_loss(wide, error).sum().backward()
    assert wide.grad is not None and (wide.grad > 0).all()


def test_the_transformer_refuses_to_be_unrolled_in_training() -> None:
    with pytest.raises(DiffplanError, match=r"'free-running', expected 'teacher-forced'") as error:
        make("transformer", "free-running")
    assert "\n" not in str(error.value)
