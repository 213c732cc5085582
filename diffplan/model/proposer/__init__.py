"""Proposers: models that propose a trajectory, one state after the other (or all at once)."""

from diffplan.config.sections import ProposerConfig
from diffplan.model.proposer.autoregressive import GRUProposer, MarkovProposer, TransformerProposer
from diffplan.model.proposer.base import Proposer, ProposerSpec
from diffplan.model.proposer.one_shot import OneShotProposer

PROPOSERS: dict[str, type[Proposer]] = {
    "markov": MarkovProposer,
    "gru": GRUProposer,
    "transformer": TransformerProposer,
    "one-shot": OneShotProposer,
}


def build_proposer(spec: ProposerSpec, config: ProposerConfig) -> Proposer:
    """The proposer a configuration names."""
    return PROPOSERS[config.kind](spec, config)  # type: ignore[call-arg]
