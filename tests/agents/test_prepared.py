"""Nothing is exported inside a control loop: graphs are prepared, kept, and made once."""

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.agents import PlannerAgent
from diffplan.diffusion.dpm_solver_v3 import Statistics
from diffplan.engines import onnx
from diffplan.engines.padding import parts, sizes_upto
from diffplan.errors import DiffplanError

pytest.importorskip("onnxruntime", reason="the engine is an optional extra")

Make = Callable[..., Any]


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that grows with every export."""
    made, export = [], onnx.exported

    def counted(step: Any, inputs: Any) -> bytes:
        made.append(step)
        return export(step, inputs)

    monkeypatch.setattr(onnx, "exported", counted)
    return made


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)


def test_what_is_prepared_is_not_exported_later(make_agent: Make, exports: list[Any]) -> None:
    agent = make_agent(rewards=True, engine="onnx", detailed=False)
    agent.prepare(5)
    ready = len(exports)
    assert ready == 2 * len(sizes_upto(5))
    for count in range(1, 6):
        _, state = agent.predict(rows(count))
        # rows run out of step, so that fewer than all are due
        for step in range(4):
            _, state = agent.predict(rows(count), state, np.arange(count) == step)
    assert len(exports) == ready


def test_graphs_are_kept_and_read_again(
    make_agent: Make, exports: list[Any], tmp_path: Path
) -> None:
    asked = {"rewards": True, "engine": "onnx", "detailed": False, "graphs": tmp_path / "graphs"}
    first = make_agent(**asked).predict(rows(2))[0]
    made = len(exports)
    assert len(list((tmp_path / "graphs").glob("*.onnx"))) == made
    assert np.array_equal(make_agent(**asked).predict(rows(2))[0], first)
    assert len(exports) == made
    # other settings are other graphs
    make_agent(**asked, denoising_steps=2).predict(rows(2))
    assert len(exports) > made


def test_a_damaged_graph_is_exported_anew(
    make_agent: Make, exports: list[Any], tmp_path: Path
) -> None:
    asked = {"rewards": True, "engine": "onnx", "detailed": False, "graphs": tmp_path / "graphs"}
    first = make_agent(**asked).predict(rows(1))[0]
    (kept,) = (tmp_path / "graphs").glob("*.onnx")
    graph = kept.read_bytes()
    for damaged in (graph[:-9], b"", graph[:999] + bytes([graph[999] ^ 1]) + graph[1000:]):
        kept.write_bytes(damaged)
        made = len(exports)
        assert np.array_equal(make_agent(**asked).predict(rows(1))[0], first)
        assert len(exports) == made + 1


def test_statistics_calibrated_anew_are_other_graphs(make_agent: Make) -> None:
    agent = make_agent(rewards=True, engine="eager")
    model, process = copy.copy(agent.model), agent.model.plain_process
    tables = torch.ones(3, process.T + 1, model.rows, model.plan_dim)
    found = set()
    for scale in (None, 1.0, 2.0):
        if scale is not None:
            known = (scale * tables).unbind(0)
            model.statistics = Statistics(*known, process.a, process.r, process.sigma)
        found.add(onnx.OnnxEngine(model, agent.settings)._identity)
    assert len(found) == 3


def test_statistics_bind_the_sampler_that_takes_them_alone(make_agent: Make) -> None:
    agent = make_agent(rewards=True)
    model, process = copy.copy(agent.model), agent.model.plain_process
    known = torch.ones(3, process.T + 1, model.rows, model.plan_dim).unbind(0)
    others = {"start": "noise", "guidance_weight": 7.0, "clip": None}
    model.statistics = Statistics(*known, process.a, process.r, process.sigma, conditions=others)

    def made(**planning: Any) -> PlannerAgent:
        return PlannerAgent(model, agent.layout, agent.info, config_name="calibrated", **planning)

    assert made(sampler="ddim").settings.sampler == "ddim"
    with pytest.raises(DiffplanError, match="were estimated with"):
        made(sampler="dpm-solver-v3")


def test_a_full_disk_leaves_nothing_behind(
    make_agent: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(onnx.os, "replace", full)
    asked = {"rewards": True, "engine": "onnx", "graphs": tmp_path / "graphs"}
    assert make_agent(**asked).predict(rows(1))[0].shape == (1, 2)
    assert not list((tmp_path / "graphs").iterdir())


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(
    make_agent: Make, exports: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "graphs").write_text("a file where the folder should be")
    asked = {"rewards": True, "engine": "onnx", "graphs": tmp_path / "graphs"}
    assert make_agent(**asked).predict(rows(1))[0].shape == (1, 2)
    assert exports


def test_threads_export_a_graph_once(make_agent: Make, exports: list[Any]) -> None:
    agents = [make_agent(rewards=True, engine="onnx", detailed=False) for _ in range(2)]
    found: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda a=agent: found.append(a.predict(rows(2))[0]))
        for agent in agents * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(np.array_equal(one, found[0]) for one in found)
    assert len(exports) == len(agents)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9, 30, 65])
def test_a_batch_in_parts_gives_each_row_what_it_gets_alone(make_agent: Make, count: int) -> None:
    agent = make_agent(rewards=True, engine="onnx", detailed=False)
    eager = make_agent(rewards=True, engine="eager", detailed=False)
    given = rows(count)
    action, state = agent.predict(given)
    expected, _ = eager.predict(given)
    np.testing.assert_allclose(action, expected, atol=1e-5)
    following = agent.predict(given + 0.1, state)[0]
    assert following.shape == (count, 2)


def test_parts_cover_a_batch_and_hardly_more() -> None:
    for count in range(1, 600):
        every = list(parts(count))
        assert sum(taken for _, taken, _ in every) == count
        assert all(taken <= size for _, taken, size in every)
        assert all(size in sizes_upto(count) for *_, size in every)
        assert sum(size for *_, size in every) < 2 * count + 1
    assert [size for *_, size in parts(65)] == [64, 1]
