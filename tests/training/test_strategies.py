"""Ways to train the denoiser otherwise, each by what is known of it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffplan.data.episodes import Episodes
from diffplan.data.windows import WindowSampler
from diffplan.diffusion.forward import level_weights
from diffplan.diffusion.process import target_row
from diffplan.diffusion.processes import betas_cosine, ddpm
from diffplan.training.losses import Objective
from diffplan.training.matching import discrepancy
from diffplan.training.strategies import Curriculum, paired

from .test_losses import batch_of, generator

Make = Callable[..., Any]
PAIRED = {"training.immiscible": True}
ALIGNED = {"training.alignment": 0.5}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed))


def test_pairing_reorders_the_noise_and_brings_it_nearer() -> None:
    noise, centres = normal(300, 2, 1), normal(300, 2, 1, seed=1)
    found = paired(noise, centres)
    assert torch.equal(found.flatten(1).sort(0).values, noise.flatten(1).sort(0).values)
    apart = [(x - centres).square().sum() for x in (noise, found)]
    assert apart[1] < 0.5 * apart[0]
    assert torch.equal(paired(noise[:1], centres[:1]), noise[:1])
    # a state that is not there pulls nothing
    mask = torch.tensor([[1.0, 0.0]]).repeat(300, 1)
    assert torch.equal(paired(noise, centres, mask), paired(noise, centres * mask[..., None]))


def test_noise_paired_with_residuals_does_not_know_the_start() -> None:
    start, residual = normal(4000, 1, 1), normal(4000, 1, 1, seed=1)
    noise = normal(4000, 1, 1, seed=2)

    def explained(found: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([found.flatten(), start.flatten()]))[0, 1] ** 2)

    assert explained(paired(noise, residual)) < 0.002
    assert explained(paired(noise, start + residual)) > 0.3


def test_a_curriculum_goes_from_noisy_levels_to_all() -> None:
    curriculum, levels = Curriculum(50, torch.device("cpu")), torch.linspace(0, 1, 101)[:-1]
    stages, losses = [], iter([1 - 0.01 * i for i in range(60)] + [0.5] * 400)
    for _ in range(400):
        lowest = curriculum.levels(levels).min()
        stages.append(round(5 * (1 - float(lowest))))
        assert float(lowest) == pytest.approx(1 - stages[-1] / 5, abs=1e-6)
        curriculum.hear(torch.tensor(next(losses)))
    assert stages[:50] == [1] * 50 and stages[50] == 2  # better all along, but long enough
    assert stages == sorted(stages) and set(stages) == {1, 2, 3, 4, 5}
    assert torch.equal(curriculum.levels(levels), 1 - (1 - levels))
    alike = Curriculum(1000, torch.device("cpu"))
    for _ in range(21):  # the first is the best, then nothing gets better
        alike.hear(torch.tensor(0.5))
    assert int(alike.state[0]) == 2


def test_a_resumed_curriculum_stands_where_it_stood() -> None:
    one, other = (Curriculum(30, torch.device("cpu")) for _ in range(2))
    for i in range(70):
        one.hear(torch.tensor(1 / (i + 1)))
    other.restore(one.state.clone())
    for curriculum in (one, other):
        for _ in range(30):
            curriculum.hear(torch.tensor(0.1))
    assert torch.equal(one.state, other.state) and int(one.state[0]) == 4


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_levels_weigh_by_bounded_signal_to_noise(prediction: str) -> None:
    process = ddpm(betas_cosine(20))
    t = torch.arange(1, 21)
    found = level_weights(process, t, prediction, 5.0, torch.float64)
    assert float(found.mean()) == pytest.approx(1)
    expected = []
    for level in range(1, 21):
        snr = (process.a[level] / process.sigma[level]) ** 2
        share = {"x0": 1.0, "eps": 1 / snr, "v": 1 / (snr + 1)}[prediction]
        expected.append(min(snr, 5.0) * share)
        assert target_row(process, prediction, level) is not None
    expected = torch.tensor(expected).double()
    torch.testing.assert_close(found, expected / expected.mean(), rtol=1e-5, atol=1e-7)


def test_alignment_teaches_the_denoiser_alone(
    tiny_goal_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    model = tiny_model(tiny_config(changes=ALIGNED), tiny_goal_episodes)
    losses = Objective(model)(batch_of(model, tiny_goal_episodes), generator())
    assert -0.5 <= float(losses["denoiser_aligned"]) <= 0.5
    losses["denoiser_aligned"].backward()
    assert all(p.grad is None for p in model.proposer.parameters())
    for part in (model.projector, model.denoiser.network.blocks):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_nothing_draws_other_numbers(
    tiny_goal_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    every: dict[str, Any] = {
        **PAIRED,
        **ALIGNED,
        "training.min_snr": 5.0,
        "training.curriculum": 10,
        "denoiser.routing": 0.8,
        "denoiser.shortest_path": True,
    }
    after = []
    for changes in ({}, every):
        source = generator()
        model = tiny_model(tiny_config(changes=changes), tiny_goal_episodes)
        losses = Objective(model)(batch_of(model, tiny_goal_episodes), source)
        assert all(torch.isfinite(loss) for loss in losses.values())
        after.append(source.get_state())
    assert torch.equal(*after)


def test_samples_of_one_law_do_not_differ() -> None:
    found = [
        float(discrepancy(normal(64, 4, seed=2 * i), normal(64, 4, seed=2 * i + 1)))
        for i in range(40)
    ]
    error = torch.tensor(found).std() / math.sqrt(40)
    assert abs(sum(found) / 40) < 3 * error and min(found) < 0
    x = (normal(64, 4, seed=100) + 2).requires_grad_()
    first = discrepancy(x, normal(64, 4, seed=101))
    first.backward()
    assert x.grad is not None
    moved = x.detach() - 0.5 * x.grad / x.grad.norm(dim=1).mean()
    assert first > 10 * error and discrepancy(moved, normal(64, 4, seed=101)) < first


def test_plans_that_fit_the_data_less_are_told_apart(
    tiny_goal_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    from diffplan.training.matching import Matching

    model = tiny_model(tiny_config(), tiny_goal_episodes)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sampler = WindowSampler(tiny_goal_episodes, model.config, seed=0)
    matching = Matching(model, 1e-2)
    found = [matching.update(sampler, 32, generator(3)) for _ in range(15)]
    assert found[-1] < 0.7 * found[0]  # the same windows and noise
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(k.startswith("denoiser.") for k in changed)
