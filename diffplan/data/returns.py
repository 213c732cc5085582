"""Discounted returns of long reward sequences."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffplan.data.episodes import Episodes

_CHUNK = 65_536  # steps at once: temporaries stay in the processor's cache


def discounted_returns(
    rewards: np.ndarray, starts: np.ndarray, discount: float, tail: np.ndarray
) -> np.ndarray:
    """Return-to-go of every step, R_t = r_t + discount R_{t+1}.

    rewards: [N], reward t follows step t. starts: [E+1] offsets of the episodes, 0 to N. tail: [E]
    the return after each episode's last step. Returns [N] float32, computed in float64.

    A recurrence x_t = b_t + c_t x_{t+1} is two of its steps at once with b_t + c_t b_{t+1} and
    c_t c_{t+1}, four after doing that again, and so on (Hillis & Steele 1986): log2(longest
    episode) passes over whole arrays. c is 0 at an episode's last step, so one array holds all.
    Chunks are taken from the end, each handing its first return to the one before.
    """
    starts = np.asarray(starts)
    filled = np.diff(starts) > 0
    last, after = starts[1:][filled] - 1, np.asarray(tail, np.float64)[filled]
    result = np.empty(len(rewards), np.float32)
    carry = 0.0
    for first in reversed(range(0, len(rewards), _CHUNK)):
        values = np.array(rewards[first : first + _CHUNK], np.float64)
        factors = np.full(len(values), float(discount))
        low, high = np.searchsorted(last, (first, first + len(values)))
        # what follows an episode enters at its last step; the factor 0 keeps the next one out
        ends = last[low:high] - first
        values[ends] += discount * after[low:high]
        factors[ends] = 0.0
        shift = 1
        # done as soon as every factor has met an end
        while shift < len(values) and factors[:-shift].any():
            values[:-shift] += factors[:-shift] * values[shift:]
            # beyond the chunk's end there is nothing to join: those wait for the carry
            factors[:-shift] *= factors[shift:]
            shift *= 2
        values += factors * carry
        carry = values[0]
        result[first : first + len(values)] = values
    return result


def penalised(episodes: Episodes, penalty: float) -> np.ndarray:
    """Rewards [N] with `penalty` added where a step ends its episode before the time limit."""
    if not penalty:
        return episodes.rewards
    return episodes.rewards + np.float32(penalty) * np.asarray(episodes.terminations)


def returns_to_go(episodes: Episodes, discount: float, penalty: float = 0.0) -> Tensor:
    """Discounted return-to-go at every state [M]; at a state after the last step what follows.

    A time limit is no end: what would have followed is taken as more of the same. penalty: as in
    `penalised`.
    """
    state_starts, starts = np.asarray(episodes.state_starts), np.asarray(episodes.step_starts)
    last = starts[1:] - 1
    tail = np.zeros(len(last))
    if discount < 1:
        # the mean reward for ever, sum / length / (1 - discount)
        cut = episodes.truncations[last] & ~episodes.terminations[last]
        sums = np.add.reduceat(episodes.rewards, starts[:-1], dtype=np.float64)
        tail = np.where(cut, sums / np.diff(starts) / (1 - discount), 0.0)
    extra = np.diff(state_starts) > np.diff(starts)
    # states with a step; the one after an episode's last step has none
    acted = np.ones(len(episodes.states), np.bool_)
    acted[state_starts[1:][extra] - 1] = False
    result = np.empty(len(acted), np.float32)
    result[acted] = discounted_returns(penalised(episodes, penalty), starts, discount, tail)
    result[~acted] = tail[extra]
    return torch.from_numpy(result)
