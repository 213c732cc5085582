"""What a configuration must satisfy, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter

from diffplan.config.sections import Sections
from diffplan.diffusion.process import FAR, readout
from diffplan.diffusion.processes import SCHEDULES, build_process, ddpm
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.errors import DiffplanError

_COUNTS = {
    "plan": ("horizon", "stride"),
    "data": ("best_of_windows",),
    "proposer": ("width", "depth"),
    "denoiser": ("width", "depth", "levels"),
    "heads": ("width", "value_ensemble"),
    "planning": ("candidates", "replan_every", "value_guidance_until"),
    "training": ("batch_size", "decay_after"),
}
_SHARES = {
    "denoiser": ("drop_condition",),
    "planning": ("eta", "target_quantile"),
    "training": ("ema",),
}
_POSITIVE: dict[str, tuple[str, ...]] = {"training": ("learning_rate",)}
_NOT_NEGATIVE = {
    "heads": ("aggregation",),
    "planning": ("denoising_steps", "temperature", "noise_scale", "value_guidance"),
    "training": ("weight_decay",),
}


def check(config: Sections) -> None:
    """Raise DiffplanError for the first setting out of range or at odds with another."""
    plan, data, denoiser, planning = config.plan, config.data, config.denoiser, config.planning
    span = plan.horizon * plan.stride

    def require(ok: bool, name: str, expected: str) -> None:
        if not ok:
            value = attrgetter(name)(config)
            raise DiffplanError(f"{name} is {value!r}, expected {expected}")

    ranges: tuple[tuple[dict[str, tuple[str, ...]], Callable[[float], bool], str], ...] = (
        (_COUNTS, lambda value: value >= 1, "at least 1"),
        (_SHARES, lambda value: 0 <= value <= 1, "a number in [0, 1]"),
        (_POSITIVE, lambda value: value > 0, "a number above 0"),
        (_NOT_NEGATIVE, lambda value: value >= 0, "at least 0"),
        ({"data": ("discount",)}, lambda value: 0 < value <= 1, "a number in (0, 1]"),
        ({"heads": ("expectile",)}, lambda value: 0 < value < 1, "a number in (0, 1)"),
    )
    for names, fits, expected in ranges:
        for section, keys in names.items():
            for key in keys:
                value = getattr(getattr(config, section), key)
                require(value is None or fits(value), f"{section}.{key}", expected)
    require(
        not (data.discount == 1 and data.relabel == "stitched"),
        "data.discount",
        "below 1 with relabel=stitched (returns-to-go of a goal that is held are unbounded)",
    )
    require(
        planning.replan_every <= span,
        "planning.replan_every",
        f"at most the {span} environment steps of a plan (plan.horizon times plan.stride)",
    )
    _check_processes(config, require)
    _check_heads(config, require)
    if planning.start_level is not None:
        used = planning.start in ("sdedit", "raw")
        least = max(1, planning.denoising_steps) if used else 1
        require(
            least <= planning.start_level <= denoiser.levels,
            "planning.start_level",
            f"between planning.denoising_steps and denoiser.levels ({denoiser.levels})",
        )
    if planning.reuse:
        require(planning.start != "noise", "planning.start", "one with proposals where plans go on")
        require(
            planning.replan_every < span and planning.replan_every % plan.stride == 0,
            "planning.replan_every",
            f"a multiple of plan.stride ({plan.stride}) below the {span} steps of a plan with "
            "planning.reuse, which goes on from the rest of a plan",
        )
    if planning.target_return is not None:
        require(
            planning.target != "by-step",
            "planning.target",
            "fixed or decremented with planning.target_return: by-step reads every target off the "
            "data",
        )
        require(math.isfinite(planning.target_return), "planning.target_return", "a finite number")
    require(planning.clip is None or planning.clip > 0, "planning.clip", "above 0, or None")
    weight = planning.guidance_weight
    require(math.isfinite(weight), "planning.guidance_weight", "a finite number")
    require(
        planning.guidance_weight == 1 or denoiser.drop_condition > 0,
        "planning.guidance_weight",
        "1 (conditional) where training never drops a condition (denoiser.drop_condition 0)",
    )
    require(
        planning.value_guidance == 0 or SAMPLERS[planning.sampler].value_guided,
        "planning.value_guidance",
        f"0 with sampler {planning.sampler}, whose calibration differentiates the denoiser already",
    )
    if plan.pin_goal:
        require(plan.space == "absolute", "plan.space", "absolute with plan.pin_goal")
        require(
            data.relabel == "hindsight",
            "data.relabel",
            "hindsight with plan.pin_goal, which takes a plan's own end for its goal",
        )


def _check_heads(config: Sections, require: Callable[[bool, str, str], None]) -> None:
    """What heads on the denoiser allow."""
    heads, denoiser = config.heads, config.denoiser
    if heads.kind == "separate":
        return
    if heads.kind == "in-plan":
        noise = config.planning.start == "noise" and denoiser.process == "ddpm"
        require(
            noise and not denoiser.condition_on_proposal,
            "heads.kind",
            "separate unless plans come from noise alone (planning.start noise, denoiser.process "
            "ddpm, no denoiser.condition_on_proposal): proposals hold no actions",
        )
        return
    require(
        config.planning.start != "none" and config.planning.denoising_steps >= 1,
        "heads.kind",
        "separate where no denoiser is run (planning.start none, or no steps)",
    )
    require(
        denoiser.process == "ddpm" or denoiser.condition_on_proposal,
        "heads.kind",
        "separate without plain DDPM samples in training (--denoiser.condition-on-proposal)",
    )
    if heads.kind == "streams":
        planning = config.planning
        for name, ok, expected in (
            ("denoiser.process", denoiser.process == "ddpm", "ddpm"),
            ("denoiser.condition_on_proposal", not denoiser.condition_on_proposal, "False"),
            ("denoiser.prediction", denoiser.prediction == "x0", "x0"),
            ("plan.space", config.plan.space == "displacement", "displacement"),
            ("heads.train_on_proposals", not heads.train_on_proposals, "False"),
            ("heads.value", heads.value == "returns", "returns"),
            ("planning.value_guidance", not planning.value_guidance, "0"),
            ("planning.reuse", not planning.reuse, "False"),
        ):
            require(ok, name, f"{expected} with heads.kind streams")
    if heads.kind == "shared":
        require(
            len(set(heads.modalities)) == len(heads.modalities) > 0,
            "heads.modalities",
            "one or more kinds of data, none twice",
        )
        require(
            denoiser.prediction == "x0",
            "denoiser.prediction",
            "x0 with heads.kind shared, whose heads read the plan that was just denoised",
        )
        require(
            heads.value == "returns" or not config.has_head("returns"),
            "heads.value",
            "returns where the denoiser has a head for the return-to-go",
        )
        require(
            not (config.plan.pin_goal and heads.aggregation),
            "heads.aggregation",
            "0 with plan.pin_goal",
        )


def _check_processes(config: Sections, require: Callable[[bool, str, str], None]) -> None:
    """What the forward processes allow."""
    denoiser, planning = config.denoiser, config.planning
    plain = ddpm(SCHEDULES[denoiser.schedule](denoiser.levels))
    try:
        main = build_process(denoiser.process, SCHEDULES[denoiser.schedule](denoiser.levels))
        learned = [main, plain] if denoiser.condition_on_proposal else [main]
        for process in learned:
            for t in range(1, process.T + 1):
                readout(process, denoiser.prediction, t)
    except DiffplanError as error:
        raise DiffplanError(f"denoiser.process is {denoiser.process!r}: {error}") from None
    if planning.start == "process":
        require(
            denoiser.process != "ddpm" or denoiser.condition_on_proposal,
            "planning.start",
            "noise for a network that sees no proposal (or --denoiser.condition-on-proposal)",
        )
        require(
            main.a[-1] <= FAR,
            "denoiser.schedule",
            "cosine where planning starts at the end of the process: the others stop short of it",
        )
        require(
            planning.denoising_steps <= main.T,
            "planning.denoising_steps",
            f"at most the {main.T} levels of the {main.name} process",
        )
    if planning.start in ("sdedit", "noise", "raw"):
        require(
            planning.denoising_steps <= plain.T,
            "planning.denoising_steps",
            f"at most the {plain.T} levels of the ddpm process",
        )
        require(
            denoiser.process == "ddpm" or denoiser.condition_on_proposal,
            "planning.start",
            "process for a denoiser without plain DDPM samples in training (or "
            "--denoiser.condition-on-proposal)",
        )
    if planning.start == "noise":
        require(planning.denoising_steps >= 1, "planning.denoising_steps", "at least 1 from noise")
        require(
            plain.a[-1] <= FAR,
            "denoiser.schedule",
            "cosine where planning starts from noise: the others end far from it",
        )
    require(
        denoiser.prediction != "velocity" or denoiser.noise_draws == 2,
        "denoiser.prediction",
        "x0, eps or v without proposals: the noise of velocity comes in pairs of both signs",
    )
