"""Forward processes as tables of floats.

Every way of linking a proposal x̂ to data x0 used here is one row of

    x_t = a_t x0 + r_t x̂ + c_t E + sigma_t eps,    eps ~ N(0, I),

with t = 0 clean and t = T the far end; E aggregates what else is known of a trajectory, and c is
zero but for multi-task models (`aggregated`). Samplers know nothing of E: what they compute is
y_t = x_t - c_t E, a chain of the same process without it. What a network predicts is a row of three
floats as well, target = p_t x0 + q_t x̂ + w_t eps, from which `readout` gives x0 back. All of it is
computed in float64 once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from diffplan.errors import DiffplanError

Targets = Mapping[str, tuple[tuple[float, float, float], ...]]
"""Name of a prediction -> (p, q, w) of every level: target = p x0 + q x̂ + w eps."""


@dataclass(frozen=True)
class Process:
    """x_t = a_t x0 + r_t x̂ + sigma_t scale eps: three tables of T + 1 floats, index 0 clean."""

    name: str
    a: tuple[float, ...]
    r: tuple[float, ...]
    sigma: tuple[float, ...]
    memory: tuple[float, ...]
    """A chain from s to t > s keeps memory_t / memory_s of x_s and adds the rest."""
    scaled: bool = False
    """Whether sigma multiplies a noise scale [H, D] given at run time."""
    targets: Targets = field(default_factory=dict)
    """Predictions that this process knows beside "x0", "eps" and "v"."""
    c: tuple[float, ...] = ()
    """What x_t holds of E at every level, () for nothing."""

    def __post_init__(self) -> None:
        if not len(self.a) == len(self.r) == len(self.sigma) == len(self.memory) >= 2:
            raise DiffplanError(
                f"process {self.name!r}: a, r, sigma and memory need one common length of 2 or "
                f"more, got {len(self.a)}, {len(self.r)}, {len(self.sigma)}, {len(self.memory)}"
            )
        if (self.a[0], self.r[0], self.sigma[0]) != (1.0, 0.0, 0.0):
            raise DiffplanError(
                f"process {self.name!r} must be clean at index 0 (a=1, r=0, sigma=0), "
                f"got {self.a[0]}, {self.r[0]}, {self.sigma[0]}"
            )
        if min(self.sigma[1:]) <= 0 and any(self.sigma):
            raise DiffplanError(
                f"process {self.name!r}: sigma must be positive after index 0, or 0 throughout"
            )

    @property
    def T(self) -> int:
        """The last table index: the number of steps of the full chain."""
        return len(self.a) - 1

    @property
    def noisy(self) -> bool:
        """Whether x_t holds any noise."""
        return any(self.sigma)

    def posterior_std(self, t: int, s: int) -> float:
        """Standard deviation of q(x_s | x_t, x0, x̂), in units of the scale, for s < t.

        With x_t = k x_s + ... + noise, Bayes' rule gives sigma_s^2 (1 - k^2 sigma_s^2 / sigma_t^2):
        Ho et al. 2020, eq. 7, for DDPM, Liu et al. 2024 for RDDM; for the linear interpolant with
        Brownian noise it is the Brownian bridge from x_t to x0.
        """
        if not self.noisy:
            return 0.0
        ratio = self.memory[t] / self.memory[s] * self.sigma[s] / self.sigma[t]
        return self.sigma[s] * math.sqrt(max(0.0, 1.0 - ratio * ratio))


def aggregated(process: Process, weight: float) -> Process:
    """The process with c_t = weight a_t t / T: what E tells fades in and is gone at the far end.

    MT-Diffusion (arXiv 2407.17571) adds w_t E in every step, c_t = sqrt(alpha_t) (c_{t-1} + w_t).
    These are its w_t = weight sqrt(abar_{t-1}) / T; with constant ones c_T is not zero and the
    chain would not start from the prior. The process itself where the weight is 0.
    """
    if not weight:
        return process
    return replace(process, c=tuple(weight * a * t / process.T for t, a in enumerate(process.a)))


_Scale = TypeVar("_Scale")


def noise_scale(process: Process, scale: _Scale | None) -> _Scale | float:
    """`scale`, a tensor [H, D], if the process takes one (required then), else 1.0."""
    if not process.scaled:
        return 1.0
    if scale is None:
        raise DiffplanError(f"process {process.name!r} needs a noise scale [H, D], got none")
    return scale


# --- What a network predicts -------------------------------------------------------------------


def target_row(process: Process, prediction: str, t: int) -> tuple[float, float, float]:
    """(p, q, w) at level t: the network's target is p x0 + q x̂ + w scale eps.

    prediction: "x0", "eps", "v" = a eps - sigma x0 (Salimans & Ho 2022, arXiv 2202.00512), or one
    of `process.targets`. DiffplanError if the process does not know it.
    """
    known = {
        "x0": (1.0, 0.0, 0.0),
        "eps": (0.0, 0.0, 1.0),
        "v": (-process.sigma[t], 0.0, process.a[t]),
    }
    if prediction in known:
        return known[prediction]
    if prediction not in process.targets:
        names = ", ".join((*known, *process.targets))
        raise DiffplanError(
            f"process {process.name!r} has no prediction {prediction!r}; it has {names}"
        )
    return process.targets[prediction][t]


def readout(process: Process, prediction: str, t: int) -> tuple[float, float, float]:
    """(i, j, k) with x0 = i x_t + j x̂ + k target at level t >= 1.

    What `target_row` says, with eps eliminated by x_t. DiffplanError where x0 cannot be read off.
    """
    p, q, w = target_row(process, prediction, t)
    if w == 0.0:
        return 0.0, -q / p, 1 / p
    if not process.noisy:
        raise DiffplanError(
            f"process {process.name!r} has no noise, of which prediction {prediction!r} is made: "
            "use prediction 'x0'"
        )
    per = w / process.sigma[t]
    left = p - per * process.a[t]
    if left == 0.0:
        raise DiffplanError(
            f"prediction {prediction!r} cannot give x0 at level {t} of {process.name!r}, where "
            "x_t holds nothing of x0: use prediction 'x0'"
        )
    return -per / left, (per * process.r[t] - q) / left, 1 / left


FAR = 0.05
"""A chain whose last a_t is larger never leaves x0 behind."""
