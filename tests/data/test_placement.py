"""Placement: data go to a GPU only if they fit, and batches are the same from there."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffplan.data.episodes import Episodes
from diffplan.data.placement import fits, move, take
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


def test_tensors_move_and_are_taken_where_the_table_lies() -> None:
    table, index = torch.arange(12.0).view(4, 3), torch.tensor([[3, 0], [1, 1]])
    assert move(table, torch.device("cpu")) is table
    assert move(table, torch.device("meta")).device.type == "meta"
    assert torch.equal(take(table, index), table[index])
    assert take(table.to("meta"), index).device.type == "meta"


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=needs_cuda)], ids=["cpu", "cuda"]
)
@pytest.mark.parametrize("goals", [False, True], ids=["rewards", "goals"])
@pytest.mark.parametrize("kind", ["sample", "transitions", "valued"])
def test_every_device_gives_the_same_batches(
    tiny_episodes: Episodes,
    tiny_goal_episodes: Episodes,
    tiny_config: Make,
    device: str,
    goals: bool,
    kind: str,
) -> None:
    episodes = tiny_goal_episodes if goals else tiny_episodes

    def draw(sampler: WindowSampler) -> Any:
        return getattr(sampler, kind)(64, torch.Generator().manual_seed(1))

    host = draw(WindowSampler(episodes, tiny_config(), seed=0))
    there = torch.device(device)
    moved = WindowSampler(episodes, tiny_config(), seed=0).to(there)
    assert moved.states.device.type == moved.actions.device.type == there.type
    batch = draw(moved)
    assert batch.states.device.type == there.type
    for field in dataclasses.fields(host):
        one, other = getattr(host, field.name), getattr(batch, field.name)
        assert (one is None and other is None) or torch.equal(one, other.cpu())


@needs_cuda
def test_host_tensors_go_to_the_gpu_through_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned, pin = [], torch.Tensor.pin_memory
    monkeypatch.setattr(
        torch.Tensor,
        "pin_memory",
        lambda self: pinned.append(1) or pin(self),  # type: ignore[func-returns-value]
    )
    table = torch.arange(10.0, device="cuda")
    assert take(table, torch.tensor([7, 2])).tolist() == [7.0, 2.0]
    assert pinned == [1]
