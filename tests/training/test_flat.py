"""One vector of all weights learns as the weights one by one would."""

import copy

import torch
from torch import nn

from diffplan.training.average import WeightAverage
from diffplan.training.flat import Weights

_CLIP = 0.3


def test_a_weight_on_the_device_averages_as_a_number_does() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    averages = WeightAverage(model, 0.8), WeightAverage(model, 0.8)
    for _ in range(4):
        nn.init.normal_(model.weight)
        for on_device, average in enumerate(averages):
            share = average.weigh()
            if on_device:  # as on a GPU
                average._share = torch.tensor(share)
            average.update(share)
    one, other = (average.module.weight for average in averages)
    torch.testing.assert_close(one, other)
    assert not torch.equal(one, model.weight)


def test_a_vector_of_weights_learns_as_they_would_one_by_one() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({
        "large": nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)),
        "still": nn.Linear(2, 2).requires_grad_(False),
        "small": nn.Linear(7, 1),
    })  # fmt: skip
    alone = copy.deepcopy(model)
    parts = [list(alone[name].parameters()) for name in ("large", "small")]
    apart = torch.optim.AdamW([p for part in parts for p in part], 0.1, weight_decay=0.1)
    weights = Weights(model)
    average, other = WeightAverage(model, 0.5, weights.vector), WeightAverage(alone, 0.5)
    joined = torch.optim.AdamW([weights.vector], 0.1, weight_decay=0.1, fused=True)
    clipped = set()
    for x in torch.randn(6, 4, 7):
        for of, optimiser in ((model, joined), (alone, apart)):
            optimiser.zero_grad(set_to_none=False)
            # so steep that one part is clipped and the other is not
            loss = 50 * of["large"](x[:, :3]).square().mean() + 0.02 * of["small"](x).mean()
            (loss + of["still"](x[:, :2]).mean()).backward()
        weights.clip(_CLIP)
        for part in parts:
            clipped.add(float(nn.utils.clip_grad_norm_(part, _CLIP)) > _CLIP)
        for of, optimiser in ((average, joined), (other, apart)):
            optimiser.step()
            of.update()
        for one, two in ((model, alone), (average.module, other.module)):
            pairs = zip(one.parameters(), two.parameters(), strict=True)
            assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    assert clipped == {True, False}
