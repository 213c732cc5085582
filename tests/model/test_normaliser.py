"""Normalisers: the scale of every column, and the way back."""

import pytest
import torch

from diffplan.data.rows import Rows
from diffplan.model import normaliser as module
from diffplan.model.normaliser import Normaliser


def test_fitted_columns_have_mean_zero_and_unit_size() -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(500, 3, generator=generator) * torch.tensor([0.1, 3.0, 50.0]) + 7
    normaliser = Normaliser(3)
    normaliser.fit(data)
    z = normaliser(data)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0, unbiased=False), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normaliser.inverse(z), data)


def test_a_column_that_never_moves_keeps_its_units() -> None:
    data = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    normaliser = Normaliser(2)
    normaliser.fit(data)
    assert normaliser.std.tolist() == [1.0, 1.0]
    torch.testing.assert_close(normaliser(torch.tensor([3.0, 7.0])), torch.tensor([1.0, 2.0]))


def test_the_scales_travel_with_the_weights() -> None:
    fitted, fresh = Normaliser(2), Normaliser(2)
    fitted.fit(torch.tensor([[1.0, -4.0], [5.0, 2.0]]))
    fresh.load_state_dict(fitted.state_dict())
    x = torch.tensor([[2.0, 3.0]])
    assert torch.equal(fresh(x), fitted(x))
    assert not list(fitted.parameters())


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_chosen_rows_are_fitted_in_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    data = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) * 3 + 1000
    rows = Rows(torch.tensor([0, 20, 40]), torch.tensor([5, 0, 13]))
    some, every = Normaliser(2), Normaliser(2)
    some.fit(data, rows)
    every.fit(data)
    for fitted, chosen in ((some, data[rows.tensor()]), (every, data)):
        torch.testing.assert_close(fitted.mean, chosen.double().mean(0).float())
        torch.testing.assert_close(fitted.std, chosen.double().std(0, unbiased=False).float())
