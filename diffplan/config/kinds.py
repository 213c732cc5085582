"""What each kind of `heads.kind` means for the plan and the networks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HeadsKind:
    """Facts of one kind of heads."""

    in_plan: bool = False
    """Whether the plan tensor holds actions."""
    first_action: float = 1.0
    """Weight of the actions that lead to the first future state, in the loss of the plan."""
    from_noise: bool = False
    """Whether plans come from noise alone."""
    streams: bool = False
    """Whether states, actions and the return each have a noise level of their own."""
    on_features: bool = False
    """Whether heads on the denoiser's features tell what `heads.modalities` names."""
    inverse_dynamics: bool = True
    """Whether there is an inverse dynamics network whatever plans or heads give."""
    value: bool = True
    """Whether there is a value network, unless a head tells the return."""

    @property
    def needs_denoiser(self) -> bool:
        """Whether actions or values come out of denoising, which then cannot be left out."""
        return self.in_plan or self.on_features


HEADS = {
    "separate": HeadsKind(),
    "shared": HeadsKind(on_features=True, inverse_dynamics=False),
    "streams": HeadsKind(in_plan=True, streams=True, inverse_dynamics=False, value=False),
    # proposals hold no actions; published planners have inverse dynamics beside those in the plan
    "in-plan": HeadsKind(in_plan=True, first_action=10.0, from_noise=True),
}
"""By the name used in configurations."""
