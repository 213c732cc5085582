"""Names of devices mean the same everywhere, and what is not there is said in one line."""

import pytest
import torch

from diffplan.errors import DiffplanError
from diffplan.nn.device import find_device


def test_names_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("auto") == find_device("cuda") == torch.device("cuda")
    assert find_device("cuda:1") == torch.device("cuda", 1)
    assert find_device("cpu") == torch.device("cpu")
    with pytest.raises(DiffplanError, match="'cuda:2', but PyTorch sees only 2"):
        find_device("cuda:2")


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert find_device("auto") == torch.device("cpu")
    with pytest.raises(DiffplanError, match="sees no CUDA device; use cpu or auto"):
        find_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "meta", 3, None])
def test_nonsense_is_no_device(name: object) -> None:
    with pytest.raises(DiffplanError, match="expected auto, cpu, cuda, cuda:N or mps"):
        find_device(name)  # type: ignore[arg-type]
