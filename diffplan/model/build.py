"""The parts of a model, in the sizes that its configuration and data ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffplan.diffusion.process import Process, aggregated
from diffplan.diffusion.processes import build_process
from diffplan.model.conditions import ConditionEncoder
from diffplan.model.denoiser import Denoiser
from diffplan.model.heads import Heads
from diffplan.model.proposer import build_proposer
from diffplan.model.proposer.base import Proposer, ProposerSpec
from diffplan.model.streams import Columns, StreamDenoiser
from diffplan.model.value import NoisyValue, Value
from diffplan.nn import NETWORKS, Network
from diffplan.nn.embeddings import goal_feature_size

if TYPE_CHECKING:
    from diffplan.model.planner_model import PlannerModel


def proposer_of(model: PlannerModel) -> Proposer:
    """The proposer that the configuration names."""
    spec = ProposerSpec(
        model.config.plan.horizon,
        model.spec.state_dim,
        model.spec.goal_dim,
        model.spec.goal_columns,
        model.use_returns,
        model.task_dim,
    )
    return build_proposer(spec, model.config.proposer)


def _network_of(model: PlannerModel) -> Network:
    options = model.config.denoiser
    sizes = (
        {"base": options.width}
        if options.network == "unet"
        else {
            "width": options.width,
            "depth": options.depth,
        }
    )
    result: Network = NETWORKS[options.network](
        model.rows, model.plan_dim, options.features, use_proposal=options.use_proposal, **sizes
    )
    return result


def _encoder_of(model: PlannerModel) -> ConditionEncoder:
    return ConditionEncoder(
        model.config.denoiser.features,
        # inside the plan the first state is pinned, not a condition
        state_dim=0 if model.absolute else model.spec.state_dim,
        # nor is a goal that stands at the end of the plan
        goal_dim=0 if model.config.plan.pin_goal else goal_feature_size(model.spec.goal_dim),
        # nor a return that is a stream of the plan
        use_returns=model.use_returns and model.config.heads.kind != "streams",
        task_dim=model.task_dim,
    )


def streams_of(model: PlannerModel) -> StreamDenoiser:
    """The denoiser of `heads.kind` streams."""
    states, end = model.spec.state_dim, model.plan_dim - 1
    columns = Columns(slice(0, states), slice(states, end), slice(end, end + 1))
    features = model.config.denoiser.features
    return StreamDenoiser(_network_of(model), _encoder_of(model), columns, features)


def denoiser_of(model: PlannerModel) -> Denoiser:
    """The denoiser, with heads where `heads.kind` is shared."""
    options, network = model.config.denoiser, _network_of(model)
    denoiser = Denoiser(
        network,
        _encoder_of(model),
        horizon=model.rows,
        dim=model.plan_dim,
        features=options.features,
        prediction=options.prediction,
        use_proposal=options.use_proposal,
    )
    denoiser.check_process(model.main_process)
    heads = model.config.heads
    if heads.kind == "shared":
        denoiser.heads = Heads(
            model,
            heads.modalities,
            network,
            width=heads.width,
            bins=heads.bins,
            weighting=heads.weighting,
        )
    return denoiser


def value_of(model: PlannerModel) -> Value:
    """The value network."""
    spec, heads = model.spec, model.config.heads
    return Value(
        spec.state_dim,
        spec.goal_dim,
        spec.action_dim if heads.value_input == "state-action" else 0,
        spec.goal_columns,
        heads.width,
        heads.depth,
        heads.expectile,
        heads.value_members,
        heads.value_target == "bootstrapped",
        model.task_dim,
    )


def noisy_value_of(model: PlannerModel) -> NoisyValue:
    """The value of noisy plans."""
    heads = model.config.heads
    return NoisyValue(
        model.rows,
        model.plan_dim,
        model.spec.state_dim + goal_feature_size(model.spec.goal_dim),
        model.config.denoiser.features,
        heads.width,
        heads.depth,
    )


def main_process_of(model: PlannerModel, betas: Sequence[float], weight: float) -> Process:
    """The forward process that the configuration names; weight: of what heads tell, in it."""
    options = model.config.denoiser
    process = build_process(
        options.process,
        levels=options.levels,
        betas=betas,
        path=options.path,
        gamma=options.gamma,
    )
    return aggregated(process, weight)
