"""The head of actions: what it keeps of a plan, and how it acts along it."""

import torch

from diffplan.model.acting_head import FEATURES, ActingHead

H, STRIDE, D = 4, 3, 2


def head(lookahead: int = 1, by_row: bool = False) -> ActingHead:
    torch.manual_seed(0)
    made = ActingHead((H, STRIDE, lookahead), (8, by_row), D, 1, 16)
    made.step_scale.copy_(torch.tensor([0.1, 10.0]))
    torch.nn.init.normal_(made.position)
    return made


def plans(rows: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(rows, H, FEATURES, generator=generator),
        torch.randn(rows, H + 1, D, generator=generator),
    )


def test_it_acts_towards_what_the_plan_has_next() -> None:
    for lookahead in (1, 2):
        acting, (kept, states) = head(lookahead), plans()
        step = torch.tensor([[0, 4, 11], [2, 3, 8]])
        here = torch.randn(2, 3, D)
        found = acting.at(kept, states, here, step)
        for row, column in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2)):
            n = int(step[row, column])
            place = min(n // STRIDE + lookahead, H)
            lag = torch.tensor((place * STRIDE - n) / STRIDE)
            alone = acting(kept[row, place - 1], here[row, column], states[row, place], lag)
            torch.testing.assert_close(found[row, column], alone)


def test_along_a_plan_the_way_between_its_states_is_straight() -> None:
    acting, (kept, states) = head(), plans()
    actions = acting.along(kept, states)
    assert actions.shape == (2, H, STRIDE, 1)
    here = states[:, 1:2] + (states[:, 2:3] - states[:, 1:2]) * 2 / 3
    there = acting.at(kept, states, here, torch.full((2, 1), STRIDE + 2))
    torch.testing.assert_close(actions[:, 1, 2], there[:, 0])


def test_features_of_every_row_are_kept_but_of_the_current_state() -> None:
    acting = head(by_row=True)
    h = torch.randn(2, H + 1, 8)
    kept = acting.keep(h)
    assert kept.shape == (2, H, FEATURES)
    torch.testing.assert_close(kept - acting.position, acting.of_plan(h[:, 1:]))
    whole = head().keep(h[:, 0])
    assert whole.shape == (2, H, FEATURES)
    torch.testing.assert_close(
        whole[:, 2] - whole[:, 0], (acting.position[2] - acting.position[0]).expand(2, -1)
    )
