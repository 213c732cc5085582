"""What a configuration must satisfy, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter

from diffplan.config.sections import Sections
from diffplan.diffusion.process import FAR, Process, readout
from diffplan.diffusion.processes import SCHEDULES, build_process, ddpm
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.errors import DiffplanError

Require = Callable[[bool, str, str], None]
"""(ok, name of the setting, what is expected): raises DiffplanError unless ok."""

_COUNTS = {
    "plan": ("horizon", "stride"),
    "data": ("best_of_windows",),
    "proposer": ("width", "depth"),
    "denoiser": ("width", "depth", "levels"),
    "heads": ("width", "value_ensemble", "lookahead"),
    "planning": ("candidates", "replan_every", "value_guidance_until"),
    "training": ("batch_size", "decay_after"),
}
# far beyond what anybody plans with: tables and networks are made of as many parts
_MOST = {
    "plan": {"horizon": 100_000, "stride": 100_000},
    "data": {"best_of_windows": 10_000},
    "proposer": {"width": 10**8, "depth": 1_000},
    "denoiser": {"width": 10**8, "depth": 1_000, "levels": 100_000},
    "heads": {"width": 10**8, "value_ensemble": 1_000},
    "planning": {"candidates": 1_000_000, "denoising_steps": 100_000},
    "training": {"batch_size": 10**8},
}
_SHARES = {
    "denoiser": ("drop_condition",),
    "planning": ("eta", "target_quantile"),
    "training": ("ema",),
}
_POSITIVE: dict[str, tuple[str, ...]] = {"heads": ("gain",), "training": ("learning_rate",)}
_NOT_NEGATIVE = {
    "heads": ("aggregation",),
    "planning": (
        *("denoising_steps", "temperature", "noise_scale", "value_guidance", "subgoal_steps"),
        "detour_after",
    ),
    "training": ("weight_decay",),
}


def check(config: Sections) -> None:
    """Raise DiffplanError for the first setting out of range or at odds with another."""

    def require(ok: bool, name: str, expected: str) -> None:
        if not ok:
            value = attrgetter(name)(config)
            raise DiffplanError(f"{name} is {value!r}, expected {expected}")

    for group in (
        _check_ranges,
        _check_data,
        _check_processes,
        _check_heads,
        _check_start_level,
        _check_columns,
        _check_replanning,
        _check_target,
        _check_guidance,
        _check_goal,
    ):
        group(config, require)


def _check_ranges(config: Sections, require: Require) -> None:
    """What a number may be by itself; None stands for a default that is settled later."""
    ranges: tuple[tuple[dict[str, tuple[str, ...]], Callable[[float], bool], str], ...] = (
        (_COUNTS, lambda value: value >= 1, "at least 1"),
        (_SHARES, lambda value: 0 <= value <= 1, "a number in [0, 1]"),
        (_POSITIVE, lambda value: 0 < value < math.inf, "a number above 0"),
        (_NOT_NEGATIVE, lambda value: value >= 0, "at least 0"),
        ({"data": ("discount",)}, lambda value: 0 < value <= 1, "a number in (0, 1]"),
        ({"data": ("termination_penalty",)}, lambda value: value <= 0, "0 or less"),
        ({"heads": ("expectile",)}, lambda value: 0 < value < 1, "a number in (0, 1)"),
    )
    for names, fits, expected in ranges:
        for section, keys in names.items():
            for key in keys:  # by name, so that the refusal can say which
                value = getattr(getattr(config, section), key)
                require(value is None or fits(value), f"{section}.{key}", expected)
    for section, keys_most in _MOST.items():
        for key, most in keys_most.items():
            value = getattr(getattr(config, section), key)
            require(value is None or value <= most, f"{section}.{key}", f"at most {most:,}")
    clip = config.planning.clip
    require(clip is None or clip > 0, "planning.clip", "above 0, or None")


def _check_data(config: Sections, require: Require) -> None:
    """Stitched goals are held for ever once reached, so their returns need a discount."""
    require(
        not (config.data.discount == 1 and config.data.relabel == "stitched"),
        "data.discount",
        "below 1 with relabel=stitched (returns-to-go of a goal that is held are unbounded)",
    )


def _check_start_level(config: Sections, require: Require) -> None:
    """From its level down there must be as many levels as steps; other starts do not read it."""
    planning, levels = config.planning, config.denoiser.levels
    if planning.start_level is None:
        return
    # where no start reads it, it waits for one that does
    used = planning.start in ("sdedit", "raw", "teleport")
    least = _steps(config) if used else 1
    require(
        least <= planning.start_level <= levels,
        "planning.start_level",
        f"between planning.denoising_steps and denoiser.levels ({levels})",
    )


def _steps(config: Sections) -> int:
    """The fewest levels that planning needs, as far as they are decided."""
    return max(1, config.planning.denoising_steps or 0)


def _check_columns(config: Sections, require: Require) -> None:
    """What plans hold must be enough for whoever reads them."""
    plan, heads = config.plan, config.heads
    require(
        config.is_open("plan.horizon")
        or config.is_open("heads.lookahead")
        or heads.lookahead <= plan.horizon,
        "heads.lookahead",
        f"at most the {plan.horizon} states of a plan (plan.horizon)",
    )
    if plan.columns != "goal":
        return
    require(heads.kind == "separate", "heads.kind", "separate with plan.columns goal")
    require(
        heads.value != "critic", "heads.value", "returns or bootstrapped with plan.columns goal"
    )
    require(not config.planning.reuse, "planning.reuse", "False with plan.columns goal")


def _check_replanning(config: Sections, require: Require) -> None:
    """A plan can be followed to its end, and gone on from only where some whole states are left."""
    plan, planning = config.plan, config.planning
    if config.is_open("plan.horizon", "plan.stride", "planning.replan_every"):
        return  # checked when they are decided
    span = plan.horizon * plan.stride
    require(
        planning.replan_every <= span,
        "planning.replan_every",
        f"at most the {span} environment steps of a plan (plan.horizon times plan.stride)",
    )
    if planning.reuse:
        require(planning.proposes, "planning.start", "one with proposals where plans go on")
        require(
            planning.replan_every < span and planning.replan_every % plan.stride == 0,
            "planning.replan_every",
            f"a multiple of plan.stride ({plan.stride}) below the {span} steps of a plan with "
            "planning.reuse, which goes on from the rest of a plan",
        )


def _check_target(config: Sections, require: Require) -> None:
    """A number asked for must be one that something reads."""
    planning = config.planning
    if planning.target_return is not None:
        require(
            planning.target != "by-step",
            "planning.target",
            "fixed or decremented with planning.target_return: by-step reads every target off the "
            "data",
        )
        require(math.isfinite(planning.target_return), "planning.target_return", "a finite number")


def _check_guidance(config: Sections, require: Require) -> None:
    """Guidance needs what it is made of: a model without the condition, a gradient to take."""
    planning = config.planning
    weight = planning.guidance_weight
    require(math.isfinite(weight), "planning.guidance_weight", "a finite number")
    require(
        weight == 1 or config.denoiser.drop_condition > 0,
        "planning.guidance_weight",
        "1 (conditional) where training never drops a condition (denoiser.drop_condition 0)",
    )
    require(
        planning.value_guidance == 0 or SAMPLERS[planning.sampler].value_guided,
        "planning.value_guidance",
        f"0 with sampler {planning.sampler}, whose calibration differentiates the denoiser already",
    )


def _check_goal(config: Sections, require: Require) -> None:
    """A goal held in the plan stands there as a state, and in training is where the plan ends."""
    if not config.plan.pin_goal:
        return
    require(config.plan.space == "absolute", "plan.space", "absolute with plan.pin_goal")
    require(
        config.data.relabel in (None, "hindsight"),
        "data.relabel",
        "hindsight with plan.pin_goal, which takes a plan's own end for its goal",
    )


def _check_heads(config: Sections, require: Require) -> None:
    """What heads on the denoiser allow."""
    kind, denoiser = config.heads.facts, config.denoiser
    require(
        config.heads.gain in (None, 1.0) or not config.learns_actions,
        "heads.gain",
        "1 where actions are planned, or a head's: it is of the inverse dynamics",
    )
    if not kind.needs_denoiser:
        return
    if kind.from_noise:
        require(
            config.planning.start == "noise" and not denoiser.uses_proposals,
            "heads.kind",
            "separate unless plans come from noise alone (planning.start noise, denoiser.process "
            "ddpm, no denoiser.condition_on_proposal): proposals hold no actions",
        )
        return
    require(
        config.planning.start != "none" and config.planning.denoising_steps != 0,
        "heads.kind",
        "separate where no denoiser is run (planning.start none, or no steps)",
    )
    # streams, and questions to heads, noise plans by plain DDPM whatever process plans come by
    require(
        denoiser.learns_from_noise,
        "heads.kind",
        "separate without plain DDPM samples in training (--denoiser.condition-on-proposal)",
    )
    if kind.streams:
        _check_streams(config, require)
    if kind.on_features:
        _check_features(config, require)


def _check_streams(config: Sections, require: Require) -> None:
    """One network from every combination of levels: nothing else is given, read off or held."""
    plan, denoiser, heads, planning = config.plan, config.denoiser, config.heads, config.planning
    for name, ok, expected in (
        ("denoiser.process", denoiser.to_noise, "ddpm"),
        ("denoiser.condition_on_proposal", not denoiser.condition_on_proposal, "False"),
        ("denoiser.prediction", denoiser.prediction == "x0", "x0"),
        ("plan.space", plan.space == "displacement", "displacement"),
        ("heads.train_on_proposals", not heads.train_on_proposals, "False"),
        ("heads.value", heads.value in ("auto", "returns", "none"), "returns"),
        ("planning.value_guidance", not planning.value_guidance, "0"),
        ("planning.reuse", not planning.reuse, "False"),
    ):
        require(ok, name, f"{expected} with heads.kind streams")


def _check_features(config: Sections, require: Require) -> None:
    """Heads tell of the clean plan what its features hold, each thing once."""
    heads = config.heads
    require(
        len(set(heads.modalities)) == len(heads.modalities) > 0,
        "heads.modalities",
        "one or more kinds of data, none twice",
    )
    require(
        config.denoiser.prediction == "x0",
        "denoiser.prediction",
        "x0 with heads.kind shared, whose heads read the plan that was just denoised",
    )
    require(
        heads.value in ("auto", "returns", "none") or not config.has_head("returns"),
        "heads.value",
        "returns where the denoiser has a head for the return-to-go",
    )
    # what is held stays as the data are, but E would move it
    require(
        not (config.plan.pin_goal and heads.aggregation),
        "heads.aggregation",
        "0 with plan.pin_goal",
    )


def _check_processes(config: Sections, require: Require) -> None:
    """What the forward processes allow."""
    denoiser, planning = config.denoiser, config.planning
    plain = ddpm(SCHEDULES[denoiser.schedule](denoiser.levels))
    try:
        main = build_process(denoiser.process, SCHEDULES[denoiser.schedule](denoiser.levels))
        # what some samples are drawn from must also suit
        learned = [main, plain] if denoiser.condition_on_proposal else [main]
        # training draws every level, and each must give x0 back
        for process in learned:
            for t in range(1, process.T + 1):
                readout(process, denoiser.prediction, t)
    except DiffplanError as error:
        raise DiffplanError(f"denoiser.process is {denoiser.process!r}: {error}") from None
    if planning.start == "process":
        _check_main_start(config, require, main)
    if planning.start in ("sdedit", "noise", "teleport", "raw"):
        _check_plain_start(config, require, plain)
    require(
        denoiser.prediction != "velocity" or denoiser.noise_draws == 2,
        "denoiser.prediction",
        "x0, eps or v without proposals: the noise of velocity comes in pairs of both signs",
    )


def _check_main_start(config: Sections, require: Require, main: Process) -> None:
    """The far end of the process must be where plans can be put without knowing them."""
    require(
        config.denoiser.uses_proposals,
        "planning.start",
        "noise for a network that sees no proposal (or --denoiser.condition-on-proposal)",
    )
    require(
        main.a[-1] <= FAR,
        "denoiser.schedule",
        "cosine where planning starts at the end of the process: the others stop short of it",
    )
    require(
        _steps(config) <= main.T,
        "planning.denoising_steps",
        f"at most the {main.T} levels of the {main.name} process",
    )


def _check_plain_start(config: Sections, require: Require, plain: Process) -> None:
    """These starts lie on the way of plain DDPM, of which training must have had samples."""
    planning = config.planning
    require(
        _steps(config) <= plain.T,
        "planning.denoising_steps",
        f"at most the {plain.T} levels of the ddpm process",
    )
    require(
        config.denoiser.learns_from_noise,
        "planning.start",
        "process for a denoiser without plain DDPM samples in training (or "
        "--denoiser.condition-on-proposal)",
    )
    if not planning.proposes:
        require(planning.denoising_steps != 0, "planning.denoising_steps", "at least 1 from noise")
        require(
            plain.a[-1] <= FAR,
            "denoiser.schedule",
            "cosine where planning starts from noise: the others end far from it",
        )
