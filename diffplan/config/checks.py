"""What a configuration must satisfy, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter

from diffplan.config.sections import Sections
from diffplan.diffusion.process import FAR, readout
from diffplan.diffusion.processes import SCHEDULES, build_process, ddpm
from diffplan.errors import DiffplanError

_COUNTS = {
    "plan": ("horizon", "stride"),
    "data": ("best_of_windows",),
    "proposer": ("width", "depth"),
    "denoiser": ("width", "depth", "levels", "schedule_levels", "features", "draws"),
    "heads": ("width", "depth", "value_members", "bins"),
    "planning": ("candidates", "replan_every", "value_guidance_until"),
    "training": ("batch_size", "decay_after"),
}
_SHARES = {
    "denoiser": ("drop_state", "drop_goal", "drop_returns"),
    "heads": ("known_share",),
    "planning": ("eta", "target_quantile"),
    "training": ("ema",),
}
_POSITIVE: dict[str, tuple[str, ...]] = {"training": ("learning_rate",)}
_NOT_NEGATIVE = {
    "denoiser": ("kappa",),
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
        ({"denoiser": ("plain_share",)}, lambda value: 0 <= value < 1, "a number in [0, 1)"),
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
            least <= planning.start_level <= denoiser.schedule_levels,
            "planning.start_level",
            "between planning.denoising_steps and denoiser.schedule_levels "
            f"({denoiser.schedule_levels})",
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
        planning.guidance_weight == 1 or max(denoiser.drop_goal, denoiser.drop_returns) > 0,
        "planning.guidance_weight",
        "1 (conditional) where training never drops a condition "
        "(denoiser.drop_goal, denoiser.drop_returns)",
    )
    require(
        planning.value_guidance == 0 or config.heads.noisy_value,
        "planning.value_guidance",
        "0 for a model without a value of noisy plans (--heads.noisy-value)",
    )
    require(
        planning.value_guidance == 0 or planning.sampler != "dpm-solver-v3",
        "planning.value_guidance",
        "0 with sampler dpm-solver-v3, whose calibration differentiates the denoiser already",
    )
    require(
        config.heads.value_target == "returns" or config.heads.value_input == "state",
        "heads.value_target",
        "returns with heads.value_input state-action: only V is bootstrapped",
    )
    if plan.pin_goal:
        require(plan.space == "absolute", "plan.space", "absolute with plan.pin_goal")
        require(
            data.relabel == "hindsight",
            "data.relabel",
            "hindsight with plan.pin_goal, which takes a plan's own end for its goal",
        )
    if plan.actions:
        require(
            planning.start == "noise" and not denoiser.use_proposal and denoiser.process == "ddpm",
            "plan.actions",
            "False unless plans come from noise alone (planning.start noise, denoiser.process "
            "ddpm, no denoiser.use_proposal): proposals hold no actions",
        )


def _check_heads(config: Sections, require: Callable[[bool, str, str], None]) -> None:
    """What heads on the denoiser allow."""
    heads, denoiser = config.heads, config.denoiser
    if heads.kind == "separate":
        return
    require(
        config.planning.start != "none" and config.planning.denoising_steps >= 1,
        "heads.kind",
        "separate where no denoiser is run (planning.start none, or no steps)",
    )
    require(
        denoiser.process == "ddpm" or denoiser.plain_share > 0,
        "heads.kind",
        "separate without plain DDPM samples in training (--denoiser.plain-share above 0)",
    )
    if heads.kind == "streams":
        planning = config.planning
        for name, ok, expected in (
            ("denoiser.process", denoiser.process == "ddpm", "ddpm"),
            ("denoiser.use_proposal", not denoiser.use_proposal, "False"),
            ("denoiser.prediction", denoiser.prediction == "x0", "x0"),
            ("plan.space", config.plan.space == "displacement", "displacement"),
            ("plan.actions", not config.plan.actions, "False"),
            ("heads.noisy_value", not heads.noisy_value, "False"),
            ("heads.follow_proposals", not heads.follow_proposals, "False"),
            ("heads.value_target", heads.value_target == "returns", "returns"),
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
        require(heads.bins >= 2, "heads.bins", "at least 2, between which a return-to-go can lie")
        require(
            heads.value_target == "returns" or not config.tells("returns"),
            "heads.value_target",
            "returns where a head tells the return-to-go",
        )
        require(
            not (config.tells("actions") and config.plan.actions),
            "plan.actions",
            "False where a head tells the actions",
        )
        require(
            not (config.plan.pin_goal and heads.aggregation),
            "heads.aggregation",
            "0 with plan.pin_goal",
        )


def _check_processes(config: Sections, require: Callable[[bool, str, str], None]) -> None:
    """What the forward processes allow."""
    denoiser, planning = config.denoiser, config.planning
    plain = ddpm(SCHEDULES[denoiser.schedule](denoiser.schedule_levels))
    try:
        main = build_process(
            denoiser.process,
            levels=denoiser.levels,
            betas=SCHEDULES[denoiser.schedule](denoiser.schedule_levels),
            path=denoiser.path,
            gamma=denoiser.gamma,
        )
        learned = [main, plain] if denoiser.plain_share > 0 and denoiser.use_proposal else [main]
        for process in learned:
            for t in range(1, process.T + 1):
                readout(process, denoiser.prediction, t)
    except DiffplanError as error:
        raise DiffplanError(f"denoiser.process is {denoiser.process!r}: {error}") from None
    if planning.start == "process":
        require(
            denoiser.process != "ddpm" or denoiser.use_proposal,
            "planning.start",
            "noise for a network that sees no proposal (or --denoiser.use-proposal)",
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
            denoiser.process == "ddpm" or denoiser.plain_share > 0,
            "planning.start",
            "a denoiser with plain DDPM samples in training (--denoiser.plain-share above 0)",
        )
    if planning.start == "noise":
        require(planning.denoising_steps >= 1, "planning.denoising_steps", "at least 1 from noise")
        require(
            not denoiser.use_proposal or denoiser.plain_share > 0,
            "denoiser.plain_share",
            "above 0 where plans come from noise: the network is never trained without a proposal",
        )
        require(
            plain.a[-1] <= FAR,
            "denoiser.schedule",
            "cosine where planning starts from noise: the others end far from it",
        )
    require(
        denoiser.use_proposal or denoiser.process == "ddpm" or denoiser.plain_share == 0,
        "denoiser.use_proposal",
        f"True with process {denoiser.process} and plain samples: nothing else tells the two apart",
    )
    require(
        denoiser.prediction != "velocity" or denoiser.draws % 2 == 0,
        "denoiser.draws",
        "an even number with prediction velocity, whose noise comes in pairs of both signs",
    )
