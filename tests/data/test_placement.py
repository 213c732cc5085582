"""Placement: data go to a GPU only if they fit, and batches are the same from there."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffplan.data.episodes import Episodes
from diffplan.data.placement import fits, move
from diffplan.data.windows import WindowSampler

Make = Callable[..., Any]
needs_cuda = pytest.mark.cuda


def test_data_fit_if_they_leave_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def memory(device: torch.device) -> tuple[int, int]:
        asked.append(device)
        return 1000, 5000

    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    gpu = torch.device("cuda", 1)
    assert fits(500, gpu)
    assert not fits(501, gpu)
    assert asked == [gpu, gpu]
    assert fits(10**15, torch.device("cpu"))
    assert not fits(1, torch.device("mps"))


def test_data_that_do_not_fit_stay_on_the_host(
    tiny_episodes: Episodes, tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
    sampler = WindowSampler(tiny_episodes, tiny_config(), seed=0).to(torch.device("cuda", 0))
    assert sampler.states.device.type == sampler.actions.device.type == "cpu"


def test_tensors_move() -> None:
    table = torch.arange(12.0).view(4, 3)
    assert move(table, torch.device("cpu")) is table
    assert move(table, torch.device("meta")).device.type == "meta"


@needs_cuda
@pytest.mark.parametrize("goals", [False, True], ids=["rewards", "goals"])
@pytest.mark.parametrize("kind", ["sample", "transitions", "valued"])
def test_a_gpu_draws_batches_of_the_same_law(
    tiny_episodes: Episodes,
    tiny_goal_episodes: Episodes,
    tiny_config: Make,
    goals: bool,
    kind: str,
) -> None:
    episodes = tiny_goal_episodes if goals else tiny_episodes

    def draw(sampler: WindowSampler) -> Any:
        return getattr(sampler, kind)(4096, torch.Generator(sampler.device).manual_seed(1))

    host = draw(WindowSampler(episodes, tiny_config(), seed=0))
    there = torch.device("cuda", torch.cuda.current_device())
    moved = WindowSampler(episodes, tiny_config(), seed=0).to(there)
    assert moved.states.device.type == moved.actions.device.type == there.type
    batch = draw(moved)
    assert batch.states.device.type == there.type
    for field in dataclasses.fields(host):
        one, other = getattr(host, field.name), getattr(batch, field.name)
        if one is None or other is None:
            assert one is other
            continue
        one, other = one.double(), other.cpu().double()
        assert one.shape == other.shape
        # means of as many draws, of which windows of an episode are not independent
        near = 8 * one.std(0).amax() / 64 + 1e-9
        assert (one.mean(0) - other.mean(0)).abs().amax() < near, field.name


@needs_cuda
def test_host_tensors_go_to_the_gpu_through_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned, pin = [], torch.Tensor.pin_memory
    monkeypatch.setattr(
        torch.Tensor,
        "pin_memory",
        lambda self: pinned.append(1) or pin(self),  # type: ignore[func-returns-value]
    )
    table = torch.empty(0, device="cuda")
    assert move(torch.tensor([7.0, 2.0]), table.device).tolist() == [7.0, 2.0]
    assert pinned == [1]
