"""Captured functions, without a GPU: types, settings of the process, what waits for what."""

import torch
from torch import Tensor

from diffplan.engines.captured import Captured, Numbers

CPU = torch.device("cpu")


def doubled(x: Tensor) -> list[Tensor]:
    return [2 * x, (2 * x).bfloat16(), (2 * x).long()]


def test_outputs_are_float32_or_whole_numbers() -> None:
    captured = Captured(doubled, [torch.zeros(1, 2)], 4, 0, CPU, Numbers())
    found = captured([torch.tensor([[1.0, -2.0], [0.5, 3.0]])])
    assert [t.dtype for t in found] == [torch.float32, torch.float32, torch.int64]
    assert all(t.tolist() == [[2, -4], [1, 6]] for t in found)


def test_what_the_process_rounds_by_itself_is_left_as_it_was() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for tf32, precision in ((True, "high"), (False, "highest")):
        for mine in ("medium", "highest"):
            torch.set_float32_matmul_precision(mine)
            torch.backends.cudnn.allow_tf32 = mine == "medium"
            with Numbers(tf32=tf32).on(torch.device("cuda")):
                assert torch.get_float32_matmul_precision() == precision
                assert torch.backends.cudnn.allow_tf32 == tf32
            assert torch.get_float32_matmul_precision() == mine
            assert torch.backends.cudnn.allow_tf32 == (mine == "medium")
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def test_a_call_waits_for_the_one_before_and_marks_its_own_end() -> None:
    happened = list[str]()

    class Event:
        def synchronize(self) -> None:
            happened.append("waited")

        def record(self) -> None:
            happened.append("marked")

    def called(x: Tensor) -> list[Tensor]:
        happened.append("called")
        return [x]

    captured = Captured(called, [torch.zeros(1, 2)], 1, 0, CPU, Numbers())
    captured._done = Event()  # type: ignore[assignment]
    captured([torch.ones(1, 2)])
    assert happened == ["waited", "called", "marked"]
