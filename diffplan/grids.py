"""Time grids: which table indices a sampler visits."""

from diffplan.errors import DiffplanError


def time_grid(start: int, steps: int) -> tuple[int, ...]:
    """`steps + 1` strictly descending indices from `start` to 0, as even as integers allow."""
    if not 1 <= steps <= start:
        raise DiffplanError(
            f"{steps} sampling steps do not fit from level {start} to 0: use 1 to {start}"
        )
    return tuple((2 * start * left + steps) // (2 * steps) for left in range(steps, -1, -1))


def consecutive_grid(steps: int) -> tuple[int, ...]:
    """(steps, steps - 1, ..., 0): the last few steps of a chain, as the published '5 of 100'."""
    if steps < 0:
        raise DiffplanError(f"the number of sampling steps cannot be negative, got {steps}")
    return tuple(range(steps, -1, -1))
