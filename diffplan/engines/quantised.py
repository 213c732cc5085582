"""Graphs with 8-bit products in place of float ones.

Weights: symmetric, a scale per output. Inputs: a range per product, which in an unrolled graph is
one per step of the reverse process. Small products and those that read what was given stay in
float, as do all constants (of the features of time that is the point of TFMQ-DM, Huang et al. 2024,
arXiv 2311.16503).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from diffplan import runtime
from diffplan.runtime import onnxruntime

_LEAST, _NARROWEST = 8192, 32  # weights, and inputs or outputs, of a product that gains by it
_MICROSOFT = "com.microsoft"


def quantised(graph: bytes, inputs: Sequence[np.ndarray | None], size: int) -> bytes:
    """The graph with its large products in 8 bits.

    inputs: those of a step in order, each [N, ...], which the ranges are taken from. size: rows
    that the graph takes at once.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = _folded(graph)
    known = {each.name: each for each in model.graph.initializer}
    weights = {node.output[0]: w for node, w in _products(model)}
    ranges = _ranges(model, inputs, size)
    constants: dict[str, np.ndarray] = {}
    nodes, done = [], set[str]()  # inputs that are quantised already
    for node in model.graph.node:
        if node.output[0] not in weights:
            nodes.append(node)
            continue
        weight, (x, name), (out,) = weights[node.output[0]], node.input[:2], node.output
        bias = node.input[2] if len(node.input) > 2 else ""
        # one that a plan decides, and not the weights, is added apart
        held = bias in known and list(known[bias].dims) == [weight.shape[1]]
        scale = np.maximum(np.abs(weight).max(0), np.float32(1e-12)) / 127
        low, high = ranges[x]
        step = max((high - low) / 255, 1e-12)
        own = {
            f"{name}/int8": np.round(weight / scale).astype(np.int8),
            f"{name}/scale": scale.astype(np.float32),
            f"{name}/zero": np.zeros(len(scale), np.int8),
            f"{x}/scale": np.float32(step),
            f"{x}/zero": np.uint8(round(-low / step)),
        }
        constants |= own
        whole, scales, zeros, x_scale, x_zero = own
        product = out if held or not bias else f"{out}/product"
        given = [f"{x}/uint8", whole, x_scale, scales, x_zero, zeros, bias if held else ""]
        if x not in done:
            done.add(x)
            nodes.append(helper.make_node("QuantizeLinear", [x, x_scale, x_zero], [f"{x}/uint8"]))
        nodes.append(helper.make_node("MatMulIntegerToFloat", given, [product], domain=_MICROSOFT))
        if product != out:
            nodes.append(helper.make_node("Add", [product, bias], [out]))
    # an output may be a constant, too
    read = {name for node in nodes for name in node.input} | {x.name for x in model.graph.output}
    kept = [each for each in model.graph.initializer if each.name in read]
    kept += [numpy_helper.from_array(value, name) for name, value in constants.items()]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    if all(each.domain != _MICROSOFT for each in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
    made: bytes = onnx.ModelProto.SerializeToString(model)
    return made


@cache
def multiplies_exactly() -> bool:
    """Whether sums of 8-bit products are what they should be on this processor.

    Those with neither VNNI nor dot products add two of them in 16 bits, which overflow.
    """
    return runtime.multiplies_exactly(largest_product())


def largest_product() -> bytes:
    """The graph of an 8-bit product [1, 64] x [64, 64] by the largest weights there are."""
    from onnx import TensorProto, helper, numpy_helper

    x = helper.make_tensor_value_info("input_0", TensorProto.UINT8, [1, 64])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [1, 64])
    weight = numpy_helper.from_array(np.full((64, 64), 127, np.int8), "weight")
    node = helper.make_node("MatMulInteger", ["input_0", "weight"], ["y"])
    graph = helper.make_graph([node], "product", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made: bytes = model.SerializeToString()
    return made


def _session(graph: bytes, folded: Path | None = None) -> Any:
    """A graph, loaded; folded: where it is written after constants are folded, not fused."""
    options = onnxruntime().SessionOptions()
    options.intra_op_num_threads = 1
    if folded is not None:
        level = onnxruntime().GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(folded)
    return onnxruntime().InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _folded(graph: bytes) -> Any:
    """The graph, whatever follows from constants alone computed."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "folded.onnx"
        _session(graph, file)
        return onnx.load(file)


def _products(model: Any) -> Iterator[tuple[Any, np.ndarray]]:
    """Every node that is worth it, with its weights [inputs, outputs]."""
    from onnx import helper, numpy_helper

    known = {each.name: each for each in model.graph.initializer}
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    # what is given, and sums with it, which no network keeps within a range
    given = {each.name for each in model.graph.input}
    for node in model.graph.node:
        if node.op_type not in ("Gemm", "MatMul"):
            if not given.isdisjoint(node.input):
                given.update(node.output)
            continue
        if node.input[1] not in known or node.input[0] in given:
            continue
        said = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        weight = numpy_helper.to_array(known[node.input[1]])
        if said.pop("transB", 0):
            weight = weight.T
        if any(plain[name] != value for name, value in said.items()):
            continue
        if weight.ndim == 2 and weight.size >= _LEAST and min(weight.shape) >= _NARROWEST:
            yield node, np.ascontiguousarray(weight)


def _ranges(
    model: Any, inputs: Sequence[np.ndarray | None], size: int
) -> dict[str, tuple[float, float]]:
    """The least and the greatest that every product reads, 0 among them, by name."""
    from onnx import ModelProto, TensorProto, helper

    names = list(dict.fromkeys(node.input[0] for node, _ in _products(model)))
    if not names:
        return {}
    watched = ModelProto()
    watched.CopyFrom(model)
    out = {each.name for each in watched.graph.output}
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in names
        if name not in out
    )
    session = _session(watched.SerializeToString())
    used = [(each.name, int(each.name.rsplit("_", 1)[1])) for each in session.get_inputs()]
    rows = len(next(x for x in inputs if x is not None))
    low, high = np.zeros(len(names)), np.zeros(len(names))
    for first in range(0, rows, size):
        # a graph of more rows than there are is filled up with the same ones
        index = np.arange(first, first + size) % rows
        feeds = {name: inputs[place][index] for name, place in used}  # type: ignore[index]
        for i, seen in enumerate(session.run(names, feeds)):
            low[i], high[i] = min(low[i], seen.min()), max(high[i], seen.max())
    return dict(zip(names, zip(low.tolist(), high.tolist(), strict=True), strict=True))
