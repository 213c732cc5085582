"""What the machine can do at most on the same threads: a large product, and reading memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from diffplan.errors import DiffplanError
from diffplan.runtime import onnxruntime

REFERENCE_MS = 28.0
"""Of the 1024 x 1024 x 1024 float32 product on the reference machine, on one thread."""

_REFERENCE_SIZE = 1024
_SIZE = {"cpu": 2048, "cuda": 8192}
_COPIED = 1 << 30  # bytes, far more than the cache of a GPU holds
_READ = tuple(1 << power for power in range(17, 28))  # bytes, from a core's cache to memory


@dataclass(frozen=True)
class Ceiling:
    """Largest rates that were measured.

    products: float32 operations per second of a large product, by what ran it. bytes: read per
    second, by how many of them are read over and over: so many stay in a cache. On a GPU read and
    written by a large copy alone.
    """

    products: dict[str, float]
    bytes: dict[int, float]

    @property
    def flops(self) -> float:
        """Of the fastest product: libraries differ by up to two on the same processor."""
        return max(self.products.values())

    def best(self, other: Ceiling) -> Ceiling:
        """The larger of both, each."""
        products = {
            name: max(rate, other.products.get(name, 0.0)) for name, rate in self.products.items()
        }
        rates = {size: max(rate, other.bytes[size]) for size, rate in self.bytes.items()}
        return Ceiling(products, rates)

    def seconds(self, reuse: dict[int, int]) -> float:
        """To touch what is used again after so many bytes (`Work.reuse`), at the rate for that."""
        largest = max(self.bytes)
        return sum(
            size / self.bytes[min((s for s in self.bytes if s >= since), default=largest)]
            for since, size in reuse.items()
        )


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """PyTorch's threads on the CPU, put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def reference_ms() -> float:
    """Milliseconds of the 1024 x 1024 x 1024 float32 product on one CPU thread."""
    with threads(1), torch.inference_mode():
        a = torch.ones(_REFERENCE_SIZE, _REFERENCE_SIZE)
        # written in place: allocation is no part of the product
        out = torch.empty_like(a)
        return 1000 * _fastest(lambda: torch.mm(a, a, out=out), a.device, 5)


def measure_ceiling(place: str, number: int, onnx: bool) -> Ceiling:
    """The ceiling of a device on a number of threads; onnx: let ONNX Runtime try the product too.

    Raises DiffplanError where the device cannot hold them.
    """
    device = torch.device(place)
    size = _SIZE[device.type]
    try:
        with threads(number), torch.inference_mode():
            # ones, not random numbers: the time of a dense product does not depend on them
            a = torch.ones(size, size, device=device)
            out = torch.empty_like(a)
            calls: dict[str, Callable[[], object]] = {"PyTorch": lambda: torch.mm(a, a, out=out)}
            if onnx and device.type == "cpu":
                calls["ONNX Runtime"] = _onnx_product(a, number)
            products = {
                name: 2 * size**3 / _fastest(call, device, 2) for name, call in calls.items()
            }
            rates = _reading() if device.type == "cpu" else _copying(device)
    except (RuntimeError, MemoryError) as error:
        raise DiffplanError(
            f"{place} cannot run the product and the copy that it is compared with: "
            f"{str(error).splitlines()[0]}"
        ) from None
    return Ceiling(products, rates)


def _reading() -> dict[int, float]:
    """Bytes per second of an inner product of two halves, which reads every one of them once."""
    data, rates = torch.ones(max(_READ) // 4), {}
    for size in _READ:
        a, b = data[: size // 4].chunk(2)
        times = max(1, (1 << 22) // size)  # of a few bytes many, that the clock can tell

        def read(a: torch.Tensor = a, b: torch.Tensor = b, times: int = times) -> None:
            for _ in range(times):
                torch.dot(a, b)

        rates[size] = times * size / _fastest(read, data.device, 3)
    return rates


def _copying(device: torch.device) -> dict[int, float]:
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {_COPIED: 2 * _COPIED / _fastest(lambda: target.copy_(source), device, 3)}


def _onnx_product(a: torch.Tensor, number: int) -> Callable[[], object]:
    """The product of a square matrix with itself in ONNX Runtime."""
    import onnx
    from onnx import TensorProto, helper

    shape = list(a.shape)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("a", "b", "c")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])], "product", values[:2], values[2:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime().SessionOptions()
    # one product: threads inside it, none beside it
    options.intra_op_num_threads, options.inter_op_num_threads = number, 1
    session = onnxruntime().InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {"a": a.numpy(), "b": a.numpy()}
    return lambda: session.run(None, feeds)


def _fastest(call: Callable[[], object], device: torch.device, times: int) -> float:
    """Seconds of the fastest of several calls after one that is not counted."""
    # the first call pays for kernels that are loaded and memory that is mapped
    call()
    found, clock = [], clock_of(device.type, torch.get_num_threads())
    for _ in range(times):
        _wait(device)
        before = clock()
        call()
        _wait(device)
        found.append(clock() - before)
    return min(found)


def clock_of(device: str, number: int) -> Callable[[], float]:
    """Seconds. On one thread of a CPU its own time, whatever else the machine runs meanwhile."""
    return time.thread_time if device == "cpu" and number == 1 else time.perf_counter


def _wait(device: torch.device) -> None:
    # calls on a GPU return before they are done
    if device.type == "cuda":
        torch.cuda.synchronize(device)
