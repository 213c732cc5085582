"""Batches that are filled up to the sizes that graphs are made for."""

import torch

from diffplan import runtime
from diffplan.engines.padding import filled, largest_within, parts, sizes_upto


def test_missing_rows_are_copies_of_the_first() -> None:
    """Zeros could be divided by."""
    rows = torch.arange(1, 7).view(3, 2)
    expected = rows[[0, 1, 2, 0, 0]]
    assert torch.equal(filled(rows, 5), expected)
    assert filled(rows, 3) is rows
    found = runtime._filled(rows.numpy(), 5)  # its own, without PyTorch
    assert (found == expected.numpy()).all()


def test_sizes_are_powers_of_four_that_hold_the_batch_or_split_it() -> None:
    assert [sizes_upto(n) for n in (1, 2, 4, 5)] == [[1], [1, 4], [1, 4], [1, 4, 16]]
    assert sizes_upto(10**6)[-1] == 4**8
    assert list(parts(3)) == [(0, 3, 4)]
    assert list(parts(6)) == [(0, 4, 4), (4, 1, 1), (5, 1, 1)]
    assert list(parts(65)) == [(0, 64, 64), (64, 1, 1)]
    assert list(parts(9, most=5)) == [(0, 4, 4), (4, 4, 4), (8, 1, 1)]
    assert [largest_within(1000, row) for row in (0.001, 10, 251, 2000)] == [4**8, 64, 1, 1]
    assert list(parts(10**5)) == [(0, 4**8, 4**8), (4**8, 10**5 - 4**8, 4**8)]
