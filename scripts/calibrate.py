"""`diffplan calibrate RUN`: what sampler dpm-solver-v3 and start teleport must know of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from diffplan.errors import DiffplanError
from diffplan.model.run_folder import find_checkpoint
from diffplan.nn.device import check_device
from diffplan.scripts.planning_options import PlanningOptions

if TYPE_CHECKING:
    from torch import Tensor

    from diffplan.agents import PlannerAgent
    from diffplan.diffusion.dpm_solver_v3 import Statistics
    from diffplan.model.context import Context
    from diffplan.model.run_folder import Header

# any other sampler: what is to be estimated is not there yet
_OTHER: dict[str, Any] = {"sampler": "ddim"}
_PLANS = 8192  # that a Gaussian is fitted to
_SHOWN = (("l", "linear share of the noise"), ("s", "slope of f"), ("b", "drift of f"))


@dataclass(frozen=True)
class Calibrate:
    """Estimate the statistics of a trained model for the sampler dpm-solver-v3.

    They hold for one start, guidance and clip, those that plans will be made with, and go into the
    checkpoint's folder, with a picture beside them. With --start teleport: the Gaussian of the
    data's plans that this start needs (at least 8192 of them), in their place.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder that `diffplan train --out` wrote."""
    samples: int = 1024
    """Plans that the statistics are averaged over."""
    seed: int = 0
    """Of the plans that are drawn from the data, and of their noise."""
    average: Literal["batch", "horizon"] = "batch"
    """Statistics of each plan state (batch), or the same for all of them (horizon)."""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="last|best|UPDATES")] = "last"
    """Which checkpoint of the run."""
    device: str = "cpu"
    """Where the networks run: cpu, cuda, cuda:1, ..."""
    threads: int = 1
    """PyTorch threads."""
    planning: Annotated[PlanningOptions, tyro.conf.arg(name="")] = field(
        default_factory=PlanningOptions
    )

    def run(self) -> Path:
        """Estimate, write and draw; returns the file.

        Raises:
            DiffplanError: RUN is no run, a number out of range, a file that cannot be written, or
                a start that dpm-solver-v3 cannot make plans with.
        """
        self._check()
        import torch

        torch.set_num_threads(self.threads)
        return _calibrate(self)

    def _check(self) -> None:
        for name, least in (("samples", 2), ("seed", 0), ("threads", 1)):
            if (value := getattr(self, name)) < least:
                raise DiffplanError(f"--{name} must be at least {least}, got {value}")
        check_device(self.device, "--device")
        self.planning.check(find_checkpoint(self.folder, self.checkpoint), **_OTHER)


def _calibrate(options: Calibrate) -> Path:
    if options.planning.given.get("start") == "teleport":
        return _gaussian(options)
    from tqdm import tqdm

    from diffplan.agents import load_agent
    from diffplan.diffusion.dpm_statistics import rounds
    from diffplan.model.run_folder import read_header
    from diffplan.planning import calibration
    from diffplan.scripts.report.files import check_writable

    agent = load_agent(
        options.folder,
        checkpoint=options.checkpoint,
        device=options.device,
        **options.planning.given | _OTHER,
    )
    path = find_checkpoint(options.folder, options.checkpoint)
    file, picture = path / calibration.FILE, path / "calibration.png"
    # before the estimate: what cannot be kept is not made
    check_writable(file, "statistics")
    process = calibration.calibrated_process(agent.model, agent.settings)
    contexts, x0 = _samples(options, agent, read_header(path))
    with tqdm(total=rounds(process), desc="calibrating", unit="level") as bar:

        def progress() -> None:
            bar.update()

        statistics = calibration.calibrate(
            agent.model,
            contexts,
            agent.settings,
            x0=x0,
            seed=options.seed,
            over_horizon=options.average == "horizon",
            progress=progress,
        )
    calibration.save_statistics(statistics, path)
    _draw(picture, statistics, f"{agent.config_name}, start {agent.settings.start}")
    conditions = ", ".join(f"{name} {value}" for name, value in statistics.conditions.items())
    print(
        f"statistics of {process.name}, {process.T} levels, "
        f"{conditions}, from {options.samples} plans\nwrote {file}\nwrote {picture}"
    )
    return file


def _gaussian(options: Calibrate) -> Path:
    import torch

    from diffplan.data.windows import WindowSampler
    from diffplan.envs.datasets import training_data
    from diffplan.model.checkpoint import load_model
    from diffplan.planning import calibration
    from diffplan.scripts.report.files import check_writable

    path = find_checkpoint(options.folder, options.checkpoint)
    model, header, _ = load_model(path, torch.device("cpu"))
    check_writable(path / calibration.GAUSSIAN, "Gaussian")
    episodes = training_data(header.info, header.fingerprint)
    if isinstance(episodes, str):
        raise DiffplanError(f"start teleport is measured in the training data, but {episodes}")
    sampler = WindowSampler(episodes, header.config, seed=header.seed)
    generator = torch.Generator().manual_seed(options.seed)
    count = max(options.samples, _PLANS)
    with torch.no_grad():
        gaussian = calibration.gaussian_of(model, sampler.sample(count, generator))
    file = calibration.save_gaussian(gaussian, path)
    print(
        f"a Gaussian of {count} plans, {len(gaussian.mean)} numbers each: what they are made for "
        f"leaves open {gaussian.spread:.2f} in plan units (root mean square)\nwrote {file}"
    )
    return file


def _samples(
    options: Calibrate, agent: PlannerAgent, header: Header
) -> tuple[Context, Tensor | None]:
    """Contexts of the training data with their clean plans; contexts alone without the data.

    Where returns are asked for, the contexts ask for what planning will: one return for all.
    """
    from dataclasses import replace

    import torch

    from diffplan.data.placement import moved
    from diffplan.data.windows import WindowSampler
    from diffplan.envs.datasets import training_data

    model = agent.model
    generator = torch.Generator().manual_seed(options.seed)
    # plans of the data are what the statistics are best taken at
    episodes = training_data(header.info, header.fingerprint)
    if isinstance(episodes, str):
        print(f"from the model's own plans, at states like the data's: {episodes}")
        spec = model.spec

        def normal(columns: int) -> Tensor:
            return torch.randn(options.samples, columns, generator=generator).to(agent.device)

        goal = normal(spec.goal_dim) if spec.goal_dim else None
        z = normal(spec.state_dim)
        asked = model.normalised_context(agent.context_at(z.cpu().numpy()))
        return replace(asked, state=z, goal=goal), None
    sampler = WindowSampler(episodes, header.config, seed=header.seed)
    drawn = moved(sampler.sample(options.samples, generator), agent.device)
    windows = model.normalised_windows(drawn)
    # the return that is asked for, which is the same everywhere
    anywhere = torch.zeros(len(windows.states), agent.layout.state_dim).numpy()
    asked = model.normalised_context(agent.context_at(anywhere))
    actions = windows.actions if model.config.actions_in_plan else None
    x0 = model.to_plan(windows.states[:, 0], windows.states[:, 1:], actions)
    return replace(model.context_of(windows), target_return=asked.target_return), x0


def _draw(path: Path, statistics: Statistics, title: str) -> None:
    """l, s and b over lambda: every entry of the plan, and their median."""
    import numpy as np
    from matplotlib.figure import Figure

    from diffplan.diffusion.sampling import half_log_snrs
    from diffplan.scripts.report.pictures import CANDIDATE, EXECUTED, save, style

    lam = half_log_snrs(statistics)
    # at the ends λ is infinite
    known = np.isfinite(lam)
    with style():
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        for axes, (name, what) in zip(figure.subplots(1, 3), _SHOWN, strict=True):
            table = getattr(statistics, name).flatten(1).numpy()[known]
            axes.plot(lam[known], table, color=CANDIDATE, linewidth=0.6, alpha=0.25)
            axes.plot(lam[known], np.median(table, axis=1), color=EXECUTED, linewidth=2)
            axes.set(title=f"{name}: {what}", xlabel="λ = log(a / σ)", ylabel=name)
        figure.suptitle(f"{title}: every entry of the plan, and the median")
        save(figure, path)
