"""What is drawn from the data for one update."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Acted:
    """An action on the way to each window's first plan state.

    states: [B, D] where it was taken. lag: [B] steps from there to that plan state. actions:
    [B, A]. mask: [B] float, 0 where the episode has ended or rests at its goal.
    """

    states: Tensor
    lag: Tensor
    actions: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Windows:
    """A batch of windows in environment units, plan states `stride` steps apart.

    states: [B, H+1, D], the first is the current one. mask: [B, H] float, 0 where the episode
    (and any padding at the goal) has ended. goals: [B, G] or None. returns: [B, H+1]
    return-to-go at each plan state. weight: [B] in [0, 1]. acted: an action of its first stride,
    None unless asked for. rewards: [B, H], mean of those received on the way to each
    state; with a goal 1 where it is reached; None unless a head tells them. task: [B] int64, None
    without tasks. prompt: [B, P, D], states of another episode of that task, None unless networks
    are told by it. actions: [B, H, stride, A] that lead to each state, where plans hold or heads
    tell them. acting: [B, H] with these, 0 where the data do not show them: past an episode's end
    and at rest at a goal. between: [B, H, stride, D], where heads tell them, the states that they
    were taken in.
    """

    states: Tensor
    mask: Tensor
    goals: Tensor | None
    returns: Tensor
    weight: Tensor
    acted: Acted | None = None
    rewards: Tensor | None = None
    task: Tensor | None = None
    prompt: Tensor | None = None
    actions: Tensor | None = None
    acting: Tensor | None = None
    between: Tensor | None = None


@dataclass(frozen=True)
class Transitions:
    """Pairs for inverse dynamics: states, ahead [B, D], lag [B] in steps, actions [B, A]."""

    states: Tensor
    ahead: Tensor
    lag: Tensor
    actions: Tensor


@dataclass(frozen=True)
class Step:
    """What follows states: states [B, D] one step on, rewards [B], ended [B] 1 where none does."""

    states: Tensor
    rewards: Tensor
    ended: Tensor


@dataclass(frozen=True)
class Valued:
    """Pairs for the value: states [B, D], goals [B, G] or None, actions [B, A], returns [B].

    step: what follows, where the value is bootstrapped. task, prompt: as of `Windows`.
    """

    states: Tensor
    goals: Tensor | None
    actions: Tensor
    returns: Tensor
    step: Step | None = None
    task: Tensor | None = None
    prompt: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """What one joint update draws from the data, in environment units.

    transitions, valued: None where heads of the denoiser do what they teach.
    plain: windows that teach the denoiser to plan without a proposal, None if it need not.
    followed: windows with an action that teach to act on a proposal, None if nothing does.
    """

    windows: Windows
    transitions: Transitions | None
    valued: Valued | None
    plain: Windows | None = None
    followed: Windows | None = None
