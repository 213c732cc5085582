"""Numbers from whatever a caller holds them in."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffplan.errors import DiffplanError
from diffplan.runtime import real_numbers


def as_numbers(
    value: Any,
    width: int | None,
    name: str,
    *,
    offset: np.ndarray | None = None,
    dtype: type[np.floating] = np.float32,
) -> np.ndarray:
    """An observation or goal as contiguous [..., width] of `dtype`, of any width where it is None.

    value: anything array-like of real numbers: arrays of any strides, tensors on any device, lists.
    offset: [width] float64, subtracted before anything is rounded.
    Raises DiffplanError for anything else, another width, NaN, infinity, and for numbers that
    float32 cannot hold.
    """
    array = real_numbers(value, name)
    if array.ndim == 0 or (width is not None and array.shape[-1] != width):
        expected = "numbers" if width is None else width
        raise DiffplanError(f"{name} has shape {array.shape}, expected [..., {expected}]")
    if offset is None and array.dtype == dtype and array.flags.c_contiguous:
        numbers = array  # as it comes at every step: nothing to convert
    else:
        with np.errstate(over="ignore"):
            exact = array if offset is None else array.astype(np.float64) - offset
            numbers = np.ascontiguousarray(exact, dtype)
    if not np.isfinite(numbers).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(numbers))[0])
        raise DiffplanError(
            f"{name} holds {array[where]} at index {where}, expected finite numbers of float32"
        )
    return numbers
