"""The parts of a model, in the sizes that its configuration and data ask for."""

from __future__ import annotations

from typing import Any

from diffplan.config.config import Config
from diffplan.diffusion.process import Process, aggregated
from diffplan.diffusion.processes import SCHEDULES, build_process, ddpm
from diffplan.model.conditions import ConditionEncoder, TaskEncoder
from diffplan.model.denoiser import Denoiser
from diffplan.model.inverse_dynamics import InverseDynamics
from diffplan.model.multi_task import MultiTaskDenoiser
from diffplan.model.proposer import build_proposer
from diffplan.model.proposer.base import Proposer, ProposerSpec
from diffplan.model.space import PlanSpace
from diffplan.model.streams import StreamDenoiser
from diffplan.model.value import BootstrappedValue, NoisyValue, Value
from diffplan.nn import NETWORKS, Network
from diffplan.nn.embeddings import GoalFeatures

_DEPTH = 2  # hidden layers of inverse dynamics and values, functions of a state or two


def goal_features_of(space: PlanSpace) -> GoalFeatures:
    """What a network is told of a goal."""
    spec = space.spec
    return GoalFeatures(spec.planned_dim, spec.planned_goal_columns, spec.things, spec.holds)


def proposer_of(space: PlanSpace) -> Proposer:
    """The proposer that the configuration names."""
    spec = ProposerSpec(
        space.config.plan.horizon,
        space.spec.planned_dim,
        goal_features_of(space),
        space.use_returns,
        space.task_dim,
    )
    return build_proposer(spec, space.config.proposer)


def _network_of(space: PlanSpace) -> Network:
    options = space.config.denoiser
    entry = NETWORKS[options.network]
    depth = {"depth": options.depth} if entry.takes_depth else {}
    return entry(
        space.rows,
        space.plan_dim,
        options.features,
        width=options.width,
        use_proposal=options.condition_on_proposal,
        **depth,
    )


def _encoder_of(space: PlanSpace) -> ConditionEncoder:
    return ConditionEncoder(
        space.config.denoiser.features,
        # inside the plan the first state is pinned, not a condition
        state_dim=0 if space.absolute else space.spec.planned_dim,
        # nor is a goal that stands at the end of the plan
        goal=None if space.config.plan.pin_goal else goal_features_of(space),
        # nor a return that is a stream of the plan
        use_returns=space.use_returns and not space.config.heads.facts.streams,
        task_dim=space.task_dim,
    )


def streams_of(space: PlanSpace) -> StreamDenoiser:
    """The denoiser of `heads.kind` streams."""
    features = space.config.denoiser.features
    return StreamDenoiser(_network_of(space), _encoder_of(space), space.columns, features)


def denoiser_of(space: PlanSpace, process: Process) -> Denoiser:
    """The denoiser, with heads where `heads.kind` is shared.

    process: of whose levels it must be able to tell x0.
    """
    options = space.config.denoiser
    network, encoder = _network_of(space), _encoder_of(space)
    sizes: dict[str, Any] = {
        "features": options.features,
        "prediction": options.prediction,
        "use_proposal": options.condition_on_proposal,
    }
    denoiser = (
        MultiTaskDenoiser(space, network, encoder, **sizes)
        if space.config.heads.facts.on_features
        else Denoiser(network, encoder, **sizes)
    )
    denoiser.check_process(process)
    return denoiser


def value_of(space: PlanSpace) -> Value:
    """The value network."""
    spec, heads = space.spec, space.config.heads
    kind = BootstrappedValue if heads.value == "bootstrapped" else Value
    return kind(
        spec.planned_dim,
        goal_features_of(space),
        action_dim=spec.action_dim if heads.value == "critic" else 0,
        task_dim=space.task_dim,
        width=heads.width,
        depth=_DEPTH,
        expectile=heads.expectile,
        members=heads.value_ensemble,
    )


def task_encoder_of(space: PlanSpace) -> TaskEncoder:
    """What codes the tasks, where networks are told of them."""
    config, spec = space.config, space.spec
    return TaskEncoder(
        config.data.tasks, spec.tasks, spec.state_dim, space.task_dim, config.heads.width
    )


def inverse_dynamics_of(space: PlanSpace) -> InverseDynamics:
    """The inverse dynamics network."""
    heads, spec = space.config.heads, space.spec
    sizes = spec.state_dim, spec.action_dim, heads.width, _DEPTH
    return InverseDynamics(*sizes, spec.planned, heads.gain)


def noisy_value_of(space: PlanSpace) -> NoisyValue:
    """The value of noisy plans."""
    heads = space.config.heads
    return NoisyValue(
        space.rows,
        space.plan_dim,
        space.spec.planned_dim + space.task_dim,
        goal_features_of(space),
        space.config.denoiser.features,
        heads.width,
        _DEPTH,
    )


def processes_of(config: Config) -> tuple[Process, Process]:
    """Plain DDPM, and the forward process that the configuration names, which may be the same."""
    options, heads = config.denoiser, config.heads
    betas = SCHEDULES[options.schedule](options.levels)
    weight = heads.aggregation if heads.facts.on_features else 0.0  # of what heads tell, in it
    plain = aggregated(ddpm(betas), weight)
    if options.to_noise:
        return plain, plain
    return plain, aggregated(build_process(options.process, betas), weight)
