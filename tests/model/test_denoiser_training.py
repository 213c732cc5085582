"""A denoiser learns what theory says it should."""

import torch
from torch import Tensor

from diffplan.diffusion.forward import q_sample
from diffplan.diffusion.processes import betas_cosine, ddpm
from diffplan.model.conditions import ConditionEncoder
from diffplan.model.context import Context
from diffplan.model.denoiser import Denoiser, Noising, Samples
from diffplan.nn import ResidualMLP

F = 16


def test_training_finds_the_posterior_mean_of_gaussian_data() -> None:
    """x0 ~ N(c, 0.5^2): after a few steps of Adam the x0 prediction is near the best one."""
    torch.manual_seed(0)
    process = ddpm(betas_cosine(20))
    denoiser = Denoiser(
        ResidualMLP(1, 1, F, width=32, depth=1, use_proposal=False),
        ConditionEncoder(F, state_dim=1, use_returns=False, hidden=16),
        features=F,
        prediction="x0",
        use_proposal=False,
    )
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=1e-2)
    n = 256
    none = torch.zeros(n, dtype=torch.bool)

    def draw() -> tuple[Tensor, Tensor]:
        c = torch.randn(n, 1)
        return c, (c + 0.5 * torch.randn(n, 1)).unsqueeze(1)

    for _ in range(600):
        c, x0 = draw()
        u, noise = torch.rand(n), torch.randn(n, 1, 1)
        losses = denoiser.loss(
            Samples(x0, None, none, u, noise, Context(c)), Noising(process, process)
        )
        loss = losses["plan"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    c, x0 = draw()
    with torch.no_grad():
        bound = denoiser.bind(process, (20, 15, 10, 5, 0), denoiser.encode(Context(c)))
        for t in (15, 10, 5):
            x_t = q_sample(process, torch.full((n,), t), x0, None, torch.randn(n, 1, 1))
            a, sigma = process.a[t], process.sigma[t]
            best = c.unsqueeze(1) + 0.25 * a / (0.25 * a * a + sigma**2) * (x_t - a * c[..., None])
            assert (bound(x_t, t) - best).square().mean().sqrt() < 0.1
