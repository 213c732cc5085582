"""Index tables: the same answers as tables with an entry per state."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diffplan.data.rows import PerEpisode, Rows, StepOf

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=8)


def starts_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


@given(LENGTHS, st.data())
def test_rows_are_the_runs_in_order(lengths: list[int], data: st.DataObject) -> None:
    starts = starts_of(lengths)
    sizes = [data.draw(st.integers(-2, n)) for n in lengths]
    rows = Rows(starts[:-1], torch.tensor(sizes))
    runs = zip(starts.tolist(), sizes, strict=False)
    expected = [first + k for first, size in runs for k in range(size)]
    assert len(rows) == len(expected)
    assert rows.tensor().tolist() == expected
    assert [i for part in rows.split(3) for i in part.tolist()] == expected
    assert all(len(part) <= 3 for part in rows.split(3))
    if expected:
        k = torch.randint(len(expected), (4, 5), generator=torch.Generator().manual_seed(0))
        assert torch.equal(rows[k], torch.tensor(expected)[k])


@given(LENGTHS)
def test_every_state_knows_its_episode(lengths: list[int]) -> None:
    starts = starts_of(lengths)
    episode = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    last = PerEpisode(starts, starts[1:] - 1)
    assert torch.equal(last[torch.arange(len(episode))], starts[1:][episode] - 1)


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=8))
def test_every_state_knows_its_step(episodes: list[tuple[int, bool]]) -> None:
    steps = [n for n, _ in episodes]
    states = [n + extra for n, extra in episodes]
    table = StepOf(starts_of(states), starts_of(steps))
    expected = [
        first + min(t, n - 1)
        for first, n, count in zip(starts_of(steps).tolist(), steps, states, strict=False)
        for t in range(count)
    ]
    assert table[torch.arange(len(expected))].tolist() == expected
