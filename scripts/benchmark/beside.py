"""What decisions are held against in the same run, interleaved with them.

An actor as other methods have one, the decision's own matrix products with nothing between them,
and the same decisions where other work has had the caches meanwhile, as between steps of an
environment.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from diffplan.engines.onnx import has_onnx
from diffplan.runtime import onnxruntime
from diffplan.scripts.benchmark.ceiling import threads
from diffplan.scripts.benchmark.measure import Stages, Timed, Times, measure_round
from diffplan.scripts.benchmark.subject import Subject

_WIDTH = 256
_ELSEWHERE = 1 << 22  # bytes that other work touches: a core's cache


class Beside:
    """The yardsticks of one setting on one thread of a CPU, and their times."""

    def __init__(self, subject: Subject, timed: Sequence[Timed]) -> None:
        """timed: the cases; those of the first one's setting count, by whatever engine."""
        own = timed[0].case
        self._own = [
            each
            for each in timed
            if replace(each.case, engine=own.engine) == own and (own.device, own.threads) == _PLACE
        ]
        self._calls: dict[str, Callable[[], object]] = {}
        self._ms: dict[str, list[float]] = {}
        self._cold: dict[str, list[Times]] = {each.case.engine: [] for each in self._own}
        if not self._own:
            return
        self._calls["actor"] = _actor(subject, own.batch)
        if has_onnx() and (products := _products(self._own[0])) is not None:
            self._calls["products"] = products
        self._other = np.zeros(_ELSEWHERE, np.uint8)

    def measure(self, seconds: float) -> None:
        """One round: about so many seconds for each."""
        for name, call in self._calls.items():
            times, begin = list[float](), time.perf_counter()
            with threads(1), torch.inference_mode():
                call()
                while not times or time.perf_counter() - begin < seconds:
                    before = time.thread_time()
                    call()
                    times.append(1000 * (time.thread_time() - before))
            found = statistics.median(times)
            self._ms.setdefault(name, []).append(found)
        for each in self._own:
            self._cold[each.case.engine].append(measure_round(each, seconds, self._elsewhere))

    def _elsewhere(self) -> None:
        self._other += 1

    def report(self) -> dict[str, Any] | None:
        """Milliseconds of the fastest rounds; None where the setting is no single thread's."""
        if not self._own:
            return None
        found: dict[str, Any] = {name: min(ms) for name, ms in self._ms.items()}
        rows = {}
        for each in self._own:
            row, cold = each.row(), self._cold[each.case.engine]
            rows[each.case.engine] = {
                "plan": row["replan_ms_median"],
                "kept": row["between_ms_median"],
                "decision": row["amortised_ms"],
                "plan_cold": _least([t.replan for t in cold]),
                "kept_cold": _least([t.between for t in cold]),
                "decision_cold": _least([t.decision for t in cold]),
            }
        return found | {"engines": rows, "steps_per_plan": self._own[0].row()["steps_per_plan"]}


_PLACE = ("cpu", 1)


def _least(rounds: Sequence[list[float]]) -> float | None:
    return min((statistics.median(times) for times in rounds if times), default=None)


def _actor(subject: Subject, batch: int) -> Callable[[], object]:
    """Two hidden layers of 256 in PyTorch, NumPy arrays in and out, as TD3+BC acts."""
    inputs = subject.layout.state_dim + subject.layout.goal_dim
    layers = [nn.Linear(inputs, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.ReLU()]
    actor = nn.Sequential(*layers, nn.Linear(_WIDTH, subject.spec.action_dim), nn.Tanh())
    observation = np.zeros((batch, inputs), np.float32)
    return lambda: actor(torch.from_numpy(observation)).numpy()


class _Seen(TorchDispatchMode):
    """Takes down the products of a call: rows and weights [inputs, outputs] of each."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[int, Tensor]] = []
        self.others = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._overloadpacket.__name__
        if name in ("mm", "addmm"):
            x, weight = args[-2:]
            self.products.append((len(x), weight))
        self.others |= name in ("bmm", "baddbmm", "convolution") or "attention" in name
        return func(*args, **(kwargs or {}))


def _products(timed: Timed) -> Callable[[], object] | None:
    """The products of one decision in ONNX Runtime, one after the other.

    None where it is not made of products with weights alone.
    """
    from onnx import TensorProto, helper, numpy_helper

    stages = Stages(timed.agent, timed.observation)
    with torch.inference_mode(False), torch.no_grad(), _Seen() as seen:
        stages.run()
    if seen.others:
        return None
    weights, nodes = dict[Any, Any](), list[Any]()
    # each has inputs of its own, or ONNX Runtime would compute equal ones once
    inputs, made = dict[tuple[int, int], list[str]](), dict[int, list[str]]()
    for index, (rows, weight) in enumerate(seen.products):
        # calls of a network share its weights, also here
        key = (weight.data_ptr(), tuple(weight.shape), weight.stride())
        if key not in weights:
            array = np.ascontiguousarray(weight.numpy(force=True))
            weights[key] = numpy_helper.from_array(array, f"w{len(weights)}")
        x, out = f"x{index}", f"y{index}"
        inputs.setdefault((rows, weight.shape[0]), []).append(x)
        nodes.append(helper.make_node("MatMul", [x, weights[key].name], [out]))
        made.setdefault(rows, []).append(out)
    feeds = {
        f"given{i}": np.zeros((rows * len(names), width), np.float32)
        for i, ((rows, width), names) in enumerate(inputs.items())
    }
    split = [
        helper.make_node("Split", [given], names, axis=0)
        for given, names in zip(feeds, inputs.values(), strict=True)
    ]
    # an output that nobody asks for would not be computed
    joined = [f"z{rows}" for rows in made]
    join = [
        helper.make_node("Concat", outs, [name], axis=1)
        for name, outs in zip(joined, made.values(), strict=True)
    ]
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        [*split, *nodes, *join],
        "products",
        [helper.make_tensor_value_info(name, kind, x.shape) for name, x in feeds.items()],
        [helper.make_tensor_value_info(name, kind, None) for name in joined],
        list(weights.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime().SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime().InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, feeds)
