"""A behaviour policy as arrays: what a trained actor needs to act, in NumPy alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
}
_LOG_STD = (-20.0, 2.0)  # stable-baselines3's bounds of the head that depends on the state


class Actor:
    """A Gaussian policy: a small network whose head is the mean, and its standard deviations.

    Draws are squashed by tanh where the policy was trained so, else clipped to [-1, 1]. Arrays:
    w0 [H, D], b0 [H], ..., the last of them the head; log_std [A], or log_std_w and log_std_b for
    one that depends on the state. meta: "activation", "squash" and where the policy comes from.
    """

    def __init__(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        self.meta = meta
        depth = sum(key.startswith("w") for key in arrays)
        layers = [(arrays[f"w{i}"], arrays[f"b{i}"]) for i in range(depth)]
        *self._hidden, self._head = [
            (w.astype(np.float32), b.astype(np.float32)) for w, b in layers
        ]
        self._activation = _ACTIVATIONS[meta["activation"]]
        heads = ("log_std",) if "log_std" in arrays else ("log_std_w", "log_std_b")
        self._log_std = [arrays[key].astype(np.float32) for key in heads]

    def __call__(
        self, observation: np.ndarray, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """Draw the action [A] float32 for an observation [D]; without rng the one of the mean."""
        x = observation.astype(np.float32)
        for weight, bias in self._hidden:
            x = self._activation(weight @ x + bias)
        action = self._head[0] @ x + self._head[1]
        if rng is not None:
            log_std = self._log_std[0]
            if len(self._log_std) == 2:
                log_std = np.clip(log_std @ x + self._log_std[1], *_LOG_STD)
            action = action + np.exp(log_std) * rng.standard_normal(len(action), dtype=np.float32)
        return np.tanh(action) if self.meta["squash"] else np.clip(action, -1.0, 1.0)


def load_actor(path: Path) -> Actor:
    """Read an actor from an .npz file."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return Actor(arrays, json.loads(str(arrays.pop("meta"))))


def save_actor(
    path: Path,
    layers: Sequence[tuple[np.ndarray, np.ndarray]],
    log_std: tuple[np.ndarray, ...],
    meta: dict[str, Any],
) -> None:
    """Write an actor as float16, which rounds its actions by less than a thousandth.

    layers: weights [out, in] and biases, the head last. log_std: one array, or weights and biases.
    """
    arrays: dict[str, np.ndarray] = {}
    for i, (weight, bias) in enumerate(layers):
        arrays |= {f"w{i}": weight, f"b{i}": bias}
    heads = ("log_std",) if len(log_std) == 1 else ("log_std_w", "log_std_b")
    arrays |= dict(zip(heads, log_std, strict=True))
    stored: dict[str, Any] = {key: array.astype(np.float16) for key, array in arrays.items()}
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, meta=np.array(json.dumps(meta)), **stored)
    partial.replace(path)
