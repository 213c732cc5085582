"""`diffplan benchmark`: what is counted, what is timed, what is written and what is refused."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.agents import load_agent
from diffplan.engines.eager import EagerEngine
from diffplan.engines.table import ENGINES, EngineKind
from diffplan.model.checkpoint import save_checkpoint
from diffplan.model.run_folder import Header
from diffplan.scripts.benchmark import ceiling
from diffplan.scripts.benchmark.count import count
from diffplan.scripts.benchmark.curve import straight_line
from diffplan.scripts.benchmark.report import STAGES, benchmark_table
from diffplan.scripts.benchmark.settings import SIZES, default_config
from diffplan.scripts.benchmark.subject import find_subject
from diffplan.scripts.cli import main

PNG = b"\x89PNG\r\n\x1a\n"
SMALL = [
    *(
        "--plan.horizon=4",
        "--planning.replan-every=4",
        "--proposer.width=16",
        "--denoiser.width=16",
    ),
    "--heads.width=16",
]
QUICK = [*("--rounds", "2"), *("--seconds", "0.002"), *("--engines", "eager")]


@pytest.fixture(autouse=True)
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The large product and copy would take longer than all the rest."""
    monkeypatch.setattr(ceiling, "_SIZE", {"cpu": 64})
    monkeypatch.setattr(ceiling, "_READ", (1 << 12, 1 << 16))
    monkeypatch.setattr(ceiling, "_REFERENCE_SIZE", 64)


def benchmark(target: Path, *words: str) -> dict[str, Any]:
    assert main(["benchmark", *words, *QUICK, "--json", str(target)]) == 0
    found: dict[str, Any] = json.loads(target.read_text())
    return found


# --- Counting -------------------------------------------------------------------------------------


def test_operations_and_bytes_of_products_are_counted_by_hand() -> None:
    linear = torch.nn.Linear(24, 40)
    x = torch.randn(5, 24)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            work = count(lambda: linear(linear(x)[:, :24].tanh()))
        assert work.flops == 2 * (2 * 5 * 24 * 40)
        # twice: weights and bias, the input, the output
        assert work.bytes == 2 * 4 * (24 * 40 + 40 + 5 * 24 + 5 * 40)


def test_bytes_are_read_at_the_rate_of_what_was_touched_since() -> None:
    first, second = torch.nn.Linear(64, 64, bias=False), torch.nn.Linear(64, 64, bias=False)
    x, weights = torch.randn(1, 64), 4 * 64 * 64
    alone = count(lambda: first(first(x)))
    # one layer again and again finds its weights where so many bytes still lie
    assert max(alone.reuse) == 2 * weights and sum(alone.reuse.values()) == alone.bytes
    apart = count(lambda: [second(first(x)) for _ in range(3)])
    far = apart.reuse[4 * weights]
    assert max(apart.reuse) == 4 * weights and 6 * weights <= far < 6.5 * weights
    rates = ceiling.Ceiling({}, {2 * weights: 1000.0, 4 * weights: 10.0})
    assert rates.seconds(apart.reuse) == pytest.approx(far / 10 + (apart.bytes - far) / 1000)
    assert rates.seconds({1 << 40: 10}) == 1.0  # no cache is as large: the slowest there is


def test_attention_and_convolutions_count_too() -> None:
    q, k, v = (torch.randn(2, 4, rows, 8) for rows in (3, 7, 7))
    attention = count(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v))
    assert attention.flops == 2 * (2 * 2 * 4 * 3 * 7 * 8)
    convolution = torch.nn.Conv1d(6, 10, 5, padding=2, bias=False)
    work = count(lambda: convolution(torch.randn(3, 6, 12)))
    assert work.flops == 2 * 3 * 12 * 10 * 6 * 5


# --- Curves ---------------------------------------------------------------------------------------


def test_a_straight_line_is_found_whole() -> None:
    x = [1, 8, 64, 256]
    line = straight_line(x, [2.0 + 0.5 * value for value in x])
    assert line is not None
    assert (line.fixed, line.slope) == pytest.approx((2.0, 0.5))
    assert (line.first, line.last) == (1, 256)


def test_the_line_ends_where_a_square_takes_over() -> None:
    x = [8, 16, 32, 64, 128, 256, 512]
    line = straight_line(x, [1 + 0.1 * value + 0.001 * max(0, value - 64) ** 2 for value in x])
    assert line is not None
    assert line.first == 8 and 64 <= line.last <= 128
    assert line.at(512) < 0.5 * (1 + 0.1 * 512 + 0.001 * 448**2)


def test_two_points_and_wild_ones_have_no_line() -> None:
    assert straight_line([1, 2], [1.0, 2.0]) is None
    assert straight_line([1, 2, 4], [1.0, 9.0, 1.0]) is None


# --- The command ----------------------------------------------------------------------------------


def test_a_configuration_with_random_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tables: Any
) -> None:
    before = torch.get_num_threads()
    sweeps = ["--batch", "1", "2", "64", "--candidates", "1", "3", "--denoising-steps", "1"]
    found = benchmark(
        tmp_path / "speed.json", "trajectory-diffuser", *SMALL, *sweeps, "--horizon", "3", "8"
    )
    assert torch.get_num_threads() == before
    out = capsys.readouterr().out
    assert out.count("no score stands behind these times") >= 2
    assert (tmp_path / "speed.png").read_bytes().startswith(PNG)

    assert found["replan_ms_median"] > 0 and found["reference_matmul_ms"] > 0
    assert found["plans_per_second_64"] > 0 and found["trained"] is False
    assert found["machine"]["versions"]["torch"] == torch.__version__
    cases = found["cases"]
    own = cases[0]
    assert (own["batch"], own["candidates"], own["denoising_steps"], own["horizon"]) == (1, 1, 5, 4)
    seen = {(c["batch"], c["candidates"], c["denoising_steps"], c["horizon"]) for c in cases}
    assert len(seen) == len(cases)
    assert seen == {
        *((1, 1, 5, 4), (2, 1, 5, 4), (64, 1, 5, 4)),
        *((1, 3, 5, 4), (1, 1, 1, 4)),
        *((1, 1, 5, 3), (1, 1, 5, 8)),
    }
    for case in cases:
        assert set(case["stages_ms"]) == set(STAGES)
        assert all(ms > 0 for ms in case["stages_ms"].values())
        assert case["steps_per_plan"] == 4  # two strides of two steps
        assert case["between_ms_median"] < case["amortised_ms"] < case["replan_ms_median"]
        speed = 1000 * case["batch"] / case["replan_ms_median"]
        assert case["plans_per_second"] == pytest.approx(speed)
    beside = found["beside"]
    assert beside["actor"] > 0 and "of two layers of 256" in out
    eager = beside["engines"]["eager"]
    assert eager["plan"] == own["replan_ms_median"] and eager["decision"] == own["amortised_ms"]
    assert eager["kept_cold"] > 0 and eager["decision_cold"] < eager["plan_cold"]
    by_batch = {case["batch"]: case for case in cases if case["candidates"] == 1}
    assert by_batch[64]["flops"] > 30 * own["flops"]
    assert {line["over"] for line in found["lines"]} == {"batch", "horizon"}
    assert benchmark_table(found) in out
    page = tmp_path / "page.md"
    page.write_text("<!-- table: speed.json -->\n<!-- end -->\n")
    tables.update(tmp_path)
    assert benchmark_table(found | {"protocol": None}) in page.read_text()


def test_operations_follow_from_the_sizes() -> None:
    """Of the MLP networks of a planner with one candidate, counted by hand."""
    from diffplan.scripts.benchmark.measure import Case, prepare

    config = default_config("proposer-only", "hopper")
    changes = {"plan": dataclasses.replace(config.plan, horizon=4)}
    config = dataclasses.replace(
        config,
        planning=dataclasses.replace(config.planning, replan_every=4, candidates=1),
        **changes,
    )
    subject = find_subject("proposer-only", "hopper", config, 0)
    one = prepare(subject, Case("cpu", 1, "eager", 1, 1, 0, 4))
    model = one.agent.model
    assert model.proposer is not None
    products = sum(
        2 * math.prod(weight.shape)
        for part, calls in ((model.proposer, 4), (model.inverse_dynamics, 1))
        for weight in part.parameters()
        for _ in range(calls)
        if weight.ndim == 2
    )
    assert one.work.flops == pytest.approx(products, rel=0.1)
    three = prepare(subject, Case("cpu", 1, "eager", 3, 1, 0, 4))
    assert three.work.flops == 3 * one.work.flops


@pytest.mark.parametrize("like", SIZES)
def test_every_size_fits_its_observations(like: str) -> None:
    config = default_config("trajectory-diffuser", like)
    subject = find_subject("trajectory-diffuser", like, config, 0)
    agent = subject.agent("eager", "cpu", config.plan.horizon, candidates=2)
    actions, _ = agent.predict(subject.observation(3))
    assert actions.shape == (3, SIZES[like].action_dim)


def test_a_run_keeps_its_weights_and_says_its_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_run(tmp_path)
    words = [str(run), "--batch", "1", "--horizon", "8", "--sweep", "horizon"]
    found = benchmark(tmp_path / "a.json", *words)
    assert "no results.json" in capsys.readouterr().out and found["score"] is None
    scored = {"return_mean": 12.5, "return_ci95": [10.0, 15.0], "episodes": 20}
    (run / "results.json").write_text(json.dumps({"policies": {"planner": scored}}))
    assert main(["benchmark", *words, *QUICK, "--planning.candidates", "2"]) == 0
    out = capsys.readouterr().out
    assert "return 12.5 [10.0, 15.0] over 20 episodes" in out and "no score" not in out
    assert "random weights" in out  # of the other horizon
    found = json.loads((run / "benchmark.json").read_text())
    assert found["trained"] and found["score"]["return_mean"] == 12.5
    assert {case["candidates"] for case in found["cases"]} == {2}
    assert {case["horizon"] for case in found["cases"]} == {4, 8}

    subject = find_subject(str(run), "hopper", default_config(str(run), "hopper"), 0)
    own = subject.agent("eager", "cpu", 4).predict(subject.observation(2))[0]
    loaded = load_agent(run, engine="eager")
    np.testing.assert_array_equal(own, loaded.predict(subject.observation(2))[0])


def small_run(folder: Path) -> Path:
    """A run folder with a checkpoint."""
    config = default_config("trajectory-diffuser", "pointmaze")
    config = dataclasses.replace(
        config,
        plan=dataclasses.replace(config.plan, horizon=4),
        planning=dataclasses.replace(config.planning, replan_every=4),
        proposer=dataclasses.replace(config.proposer, width=16),
        denoiser=dataclasses.replace(config.denoiser, width=16),
        heads=dataclasses.replace(config.heads, width=16),
    )
    subject = find_subject("trajectory-diffuser", "pointmaze", config, 0)
    model = subject.load("cpu", 4)
    header = Header(model.config, model.spec, subject.layout, subject.info, "f", 10, 0, 3.5)
    save_checkpoint(folder / "run", header, model.state_dict(), {})
    return folder / "run"


def test_expensive_and_impossible_cases_are_left_out_by_name(tmp_path: Path) -> None:
    words = ["--sweep", "batch", "denoising-steps", "--batch", "1", "1000000"]
    words += ["--denoising-steps", "1", "30"]
    found = benchmark(tmp_path / "a.json", "trajectory-diffuser", *SMALL, *words)
    assert {case["batch"] for case in found["cases"]} == {1}
    big, many = found["left_out"]
    assert "batch 1000000," in big and "--longest" in big
    assert "30 denoising steps" in many and "20 levels" in many
    assert found["plans_per_second_64"] is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "needs a RUN folder or a configuration"),
        (["nowhere"], "'nowhere' is neither a RUN folder nor a configuration"),
        (["--like", "hopper"], "the first word after `diffplan benchmark` is '--like'"),
        (["trajectory-diffuser", "--like", "ant"], "--like is 'ant', expected one of hopper"),
        (["trajectory-diffuser", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["trajectory-diffuser", "--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["trajectory-diffuser", "--seconds", "0"], "--seconds must be above 0, got 0"),
        (["trajectory-diffuser", "--device", "tpu"], "device is 'tpu', expected auto, cpu"),
        (
            ["trajectory-diffuser", "--engines", "fast"],
            "--engines has 'fast', expected some of eager",
        ),
        (["trajectory-diffuser", "--json", "."], "--json . is a folder"),
    ],
)
def test_mistakes_are_named_in_one_line(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and expected in error


def test_the_networks_of_a_run_cannot_be_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_run(tmp_path)
    assert main(["benchmark", str(run), "--plan.horizon", "8"]) == 2
    assert "only --planning.* can be changed" in capsys.readouterr().err


def test_an_engine_that_fails_is_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(EagerEngine):
        def plan(self, *_: Any) -> Any:
            raise TypeError("no such operator\nand a long trace")

    monkeypatch.setitem(ENGINES, "broken", EngineKind(Broken))
    target = tmp_path / "a.json"
    options = ["--rounds", "1", "--seconds", "0.002", "--sweep", "batch", "--batch", "1", "2"]
    words = ["benchmark", "trajectory-diffuser", *SMALL, *options, "--json", str(target)]
    assert main([*words, "--engines", "broken"]) == 0
    found = json.loads(target.read_text())
    assert {case["engine"] for case in found["cases"]} == {"eager"}
    assert len(found["left_out"]) == 1
    assert found["left_out"][0].endswith(
        "engine broken cannot run this (TypeError: no such operator)"
    )


def test_products_alone_are_all_there() -> None:
    pytest.importorskip("onnx", reason="the engine is an optional extra")
    pytest.importorskip("onnxruntime", reason="the engine is an optional extra")
    from diffplan.scripts.benchmark.beside import _products
    from diffplan.scripts.benchmark.measure import Case, prepare

    config = default_config("proposer-only", "hopper")
    subject = find_subject("proposer-only", "hopper", config, 0)
    timed = prepare(subject, Case("cpu", 1, "eager", 1, 1, 0, config.plan.horizon))
    run = _products(timed)
    assert run is not None
    proposer, decoder = timed.agent.model.proposer, timed.agent.model.inverse_dynamics
    assert proposer is not None and decoder is not None
    layers = [w for w in proposer.parameters() if w.ndim == 2]
    widths = sum(len(w) for w in layers) * config.plan.horizon
    widths += sum(len(w) for w in decoder.parameters() if w.ndim == 2)
    # of a proposal that draws nothing its spread, half of the last layer, is left out
    widths -= 12 * config.plan.horizon
    (joined,) = run()  # type: ignore[misc]
    assert joined.shape == (1, widths)


def test_engines_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="the engine is an optional extra")
    pytest.importorskip("onnx", reason="the engine is an optional extra")
    words = ["--sweep", "batch", "--batch", "1", "2", "4", "--rounds", "1", "--seconds", "0.002"]
    target = tmp_path / "a.json"
    options = [*words, "--engines", "onnx", "--json", str(target)]
    assert main(["benchmark", "trajectory-diffuser", "--like", "pointmaze", *SMALL, *options]) == 0
    found = json.loads(target.read_text())
    engines = {(case["engine"], case["batch"]): case for case in found["cases"]}
    assert set(engines) == {(name, b) for name in ("eager", "onnx") for b in (1, 2, 4)}
    for batch in (1, 2, 4):
        eager, onnx = engines["eager", batch], engines["onnx", batch]
        assert eager["startup_seconds"] == 0 < onnx["startup_seconds"]
        assert "stages_ms" in eager and "stages_ms" not in onnx
        assert eager["flops"] == onnx["flops"]
    assert found["beside"]["products"] > 0 and set(found["beside"]["engines"]) == {"eager", "onnx"}
    (ceiling,) = found["ceilings"].values()
    assert set(ceiling["products"]) == {"PyTorch", "ONNX Runtime"}
    assert ceiling["flops"] == max(ceiling["products"].values())
    assert found["replan_ms_median"] == min(
        engines[e, 1]["replan_ms_median"] for e in ("eager", "onnx")
    )
    assert "ONNX Runtime" in capsys.readouterr().out
