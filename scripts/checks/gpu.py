"""`make gpu`: what a GPU gives, in one run of a few minutes, written as JSON and a table.

CUDA tests, the card's own ceilings, decisions by every engine, training, and a short training with
its score. Every part is written when it is done, so that a run that is cut keeps what it has; what
fails is reported in the part's place and the rest goes on. On a CPU the same parts run at small
sizes, as a rehearsal.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffplan.scripts.checks import main

PARTS = ("ceilings", "tests", "decisions", "training", "score")
_GRAPHS = ("eager", "cuda-graph", "cuda-graph-tf32", "cuda-graph-bf16")
_LEAST_TRAINING = 30.0  # seconds
_COMPARED = 64  # plans, of which it is told how far an engine's are from eager ones


@dataclass(frozen=True)
class Gpu:
    """Measure planning and training on this machine's GPU (a rehearsal on a CPU)."""

    out: Path = Path("runs/gpu")
    """Folder for gpu.json, the log of the tests and the short training's run."""
    device: str = "cuda"
    """cuda, or cpu for a rehearsal at small sizes."""
    parts: tuple[str, ...] = PARTS
    """What to measure, in this order."""
    seconds: float = 330.0
    """No part begins after this; what is missing is named."""
    training_seconds: float = 120.0
    """Of the training that is scored, where as much is left."""
    compiled: bool = False
    """Also measure decisions that Inductor compiled before they were captured: a minute more."""
    rate_seconds: float = 10.0
    """Of one training whose rate is measured, at most."""
    calls_seconds: float = 0.4
    """Spent on one case of decisions."""

    def run(self) -> dict[str, Any]:
        """Measure, print and write; returns what gpu.json holds.

        Raises:
            DiffplanError: An unknown part, or no CUDA device.
            PartialResult: A part failed, or its turn came too late.
        """
        import torch

        from diffplan.errors import DiffplanError, PartialResult

        if unknown := [part for part in self.parts if part not in PARTS]:
            raise DiffplanError(f"--parts has {unknown[0]!r}, expected some of {', '.join(PARTS)}")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise DiffplanError(
                "PyTorch sees no CUDA device; --device cpu rehearses at small sizes"
            )
        began = time.perf_counter()
        self.out.mkdir(parents=True, exist_ok=True)
        report: dict[str, Any] = {"machine": _machine(self.device), "seconds": {}, "warnings": []}
        for part in self.parts:
            spent = time.perf_counter() - began
            if spent > self.seconds:
                report[part] = {"left out": f"began after {spent:.0f} s"}
                self._write(report)
                continue
            print(f"--- {part} ({spent:.0f} s)", flush=True)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                try:
                    report[part] = getattr(self, f"_{part}")(report)
                except Exception as error:  # a part that fails must not cost the others
                    traceback.print_exc()
                    report[part] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
            # what was called because it could not be captured
            said = {str(each.message) for each in told if issubclass(each.category, UserWarning)}
            report["warnings"] += sorted(said - set(report["warnings"]))
            report["seconds"][part] = round(time.perf_counter() - began - spent, 1)
            self._write(report)
        print("\n" + table(report))
        if lost := [part for part in self.parts if _failed(report[part])]:
            raise PartialResult(
                f"failed or left out: {', '.join(lost)}; see {self.out / 'gpu.json'}"
            )
        return report

    def _write(self, report: dict[str, Any]) -> None:
        (self.out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")

    @property
    def _small(self) -> bool:
        return not self.device.startswith("cuda")

    # --- Parts -----------------------------------------------------------------------------------

    def _ceilings(self, report: dict[str, Any]) -> dict[str, Any]:
        """Floating-point operations per second of a large square product, bytes of a large copy."""
        import torch

        size, length = (512, 1 << 22) if self._small else (8192, 1 << 30)
        found: dict[str, Any] = {}
        kinds = {"bf16": torch.bfloat16, "tf32": torch.float32, "float32": torch.float32}
        for name, dtype in kinds.items():
            a = torch.randn(size, size, device=self.device, dtype=dtype)
            b, out = torch.randn_like(a), torch.empty_like(a)
            with _tf32(name == "tf32"):
                seconds = self._median(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))  # type: ignore[misc]
            found[f"{name} flop/s"] = 2 * size**3 / seconds
        source = torch.randint(255, (length,), dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        found["copy bytes/s"] = 2 * length / self._median(lambda: target.copy_(source))
        return found

    def _tests(self, report: dict[str, Any]) -> dict[str, Any]:
        """The tests that need a CUDA device."""
        log = self.out / "tests.log"
        # only files with such a test: collecting all of them takes longer than the tests
        files = [
            p for p in sorted(Path("tests").rglob("test_*.py")) if "mark.cuda" in p.read_text()
        ]
        command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider"]
        with log.open("w") as stream:
            done = subprocess.run(
                [*command, *map(str, files)],
                check=False,
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=120,
            )
        lines = log.read_text().strip().splitlines()
        print("\n".join(lines[-15:]))
        return {"exit": done.returncode, "last line": lines[-1] if lines else ""}

    def _decisions(self, report: dict[str, Any]) -> list[dict[str, Any]]:
        """A new plan by every engine, by size and batch: whole `predict` calls, on the device."""
        batches = (1, 4) if self._small else (1, 64, 1024, 16384)
        engines = ("eager",) if self._small else _GRAPHS
        rows = []
        for size in ("hopper", "pointmaze"):
            for engine in engines:
                for batch in batches:
                    rows.append(self._decide(size, engine, batch))
            if self.compiled:
                rows += [self._decide(size, _GRAPHS[-1], batches[-1], compiled=True)]
        return rows

    def _decide(self, size: str, engine: str, batch: int, compiled: bool = False) -> dict[str, Any]:
        """compiled: by Inductor, before it is captured."""
        import torch

        from diffplan.scripts.benchmark.measure import Case, prepare
        from diffplan.scripts.benchmark.settings import default_config
        from diffplan.scripts.benchmark.subject import find_subject

        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        name = "trajectory-diffuser"
        subject = find_subject(name, size, default_config(name, size), 0)
        # what the aims are said for: one Hopper plan, or the best of 16 in a maze
        planning = {"candidates": 16} if size == "pointmaze" else {}
        horizon = subject.config.plan.horizon
        with torch.no_grad():  # last layers begin at zero, and would hide what engines differ in
            drawn = torch.Generator().manual_seed(0)
            for parameter in subject.load(self.device, horizon).parameters():
                noise = torch.randn(parameter.shape, generator=drawn)
                parameter.add_(0.02 * noise.to(self.device))
        with _tf32(False):
            agent: Any = subject.agent(engine, self.device, horizon, **planning)
            settings = agent.settings
            if compiled:
                agent.engine._plan.compile(dynamic=False)
                engine += ", compiled"
            observation = subject.observation(batch)
            due = np.ones(batch, bool)
            began = time.perf_counter()
            state = agent.predict(observation)[1]
            started = time.perf_counter() - began
            # a call with a plan due in every row, with arrays of the host in and out
            whole = self._times(lambda: agent.predict(observation, state, due))
            between = self._times(lambda: agent.predict(observation, state))
            context = agent.context(observation)
            seeds = torch.arange(batch, device=self.device)
            differs = self._differs(agent, observation) if batch >= _COMPARED else {}
            # the same on tensors that are on the device already
            inside = self._times(lambda: agent.engine.plan(context, seeds, torch.zeros_like(seeds)))
        # operations are counted in eager: a graph hides them
        case = Case(
            self.device, 1, "eager", 1, settings.candidates, settings.denoising_steps, horizon
        )
        flops = prepare(subject, case).work.flops * batch
        row = {
            "size": size, "engine": engine, "batch": batch,
            "candidates": settings.candidates, "start-up s": round(started, 2),
            "predict ms": _ms(whole), "between plans ms": _ms(between), "device ms": _ms(inside),
            "plans/s by predict": round(batch / statistics.median(whole)),
            "plans/s on the device": round(batch / statistics.median(inside)),
            **differs,
            "flops": flops,
            "flop/s": flops / statistics.median(inside),
        }  # fmt: skip
        if self.device.startswith("cuda"):
            row["peak memory MB"] = round(torch.cuda.max_memory_allocated() / 1e6)
            del agent, state
            gc.collect()
            torch.cuda.empty_cache()
        print(
            f"{size:10} {row['engine']:20} batch {batch:6}: predict {row['predict ms']:.3f} ms, "
            f"device {row['device ms']:.3f} ms, {row['plans/s on the device']:,} plans/s",
            flush=True,
        )
        return row

    def _differs(self, agent: Any, observation: Any) -> dict[str, float]:
        """How far the first plans of a batch are from eager ones, in deviations of the states.

        "off": root mean square in the median plan. "chosen otherwise": share of the plans that are
        off by more than .1, as another candidate does.
        """
        from diffplan.engines import EagerEngine

        context = agent.context(observation)
        seeds = np.arange(len(context))
        count, few = np.zeros_like(seeds), slice(0, _COMPARED)
        eager = EagerEngine(agent.model, agent.settings)
        exact = agent._plan(eager, context.rows(few), seeds[few], count[few])
        made = agent._plan(agent.engine, context, seeds, count)
        gap = (made.states[few] - exact.states).nan_to_num() / agent.model.observed.std
        each = gap.square().mean((1, 2)).sqrt()
        return {"off": float(each.median()), "chosen otherwise": float((each > 0.1).float().mean())}

    def _training(self, report: dict[str, Any]) -> list[dict[str, Any]]:
        """Windows learned per second on PointMaze-Medium's sizes, by batch."""
        cases = [(batch, False) for batch in (64, 256, 1024, 4096)] + [(4096, True)]
        if self._small:
            cases = [(16, False)]
        rows = []
        for batch, bf16 in cases:
            windows = self._train_rate(batch, 110 if self._small else 3000, bf16)
            row: dict[str, Any] = {"batch": batch, "bf16": bf16, "windows/s": windows}
            row["updates/s"] = windows / batch
            if not windows:
                row["failed"] = f"no rate within {self.rate_seconds:g} s"
            rows.append(row)
            print(_training_line(row), flush=True)
        return rows

    def _train_rate(self, batch: int, updates: int, bf16: bool) -> float:
        """Windows per second, 0 where there was no time for a rate."""
        from diffplan.training import RunOptions, train

        config, data = self._config(batch_size=batch, bf16=bf16), self._data()
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            options = RunOptions(
                Path(folder) / "run", updates, device=self.device, progress=False,
                stop=lambda: not self._small and time.perf_counter() - began > self.rate_seconds,
            )  # fmt: skip
            train(data, config, options)
            lines = (options.out / "metrics.jsonl").read_text().splitlines()
        rates = [json.loads(line)["samples_per_second"] for line in lines]
        rates = rates[1:]  # the first stretch holds the start-up
        return statistics.median(rates) if rates else 0.0

    def _score(self, report: dict[str, Any]) -> dict[str, Any]:
        """A training of about two minutes, and its score by 100 episodes on seeds from 1000."""
        from diffplan.scripts.evaluate import Evaluate
        from diffplan.training import RunOptions, train

        batch = 64 if self._small else 256
        # updates that fit the time, by the rate that was just measured
        rows = report.get("training", [])
        known = [row for row in rows if isinstance(row, dict) and row["batch"] == batch]
        known = [row for row in known if "failed" not in row]
        rate = known[0]["updates/s"] if known else 40.0
        left = self.seconds - sum(report["seconds"].values())
        seconds = min(self.training_seconds, max(left, _LEAST_TRAINING))
        updates = 20 if self._small else max(200, int(rate * seconds) // 100 * 100)
        run = self.out / f"pointmaze-medium-{time.strftime('%H%M%S')}"
        data = self._data()
        began = time.perf_counter()
        options = RunOptions(run, updates, device=self.device, progress=False)
        train(data, self._config(batch_size=batch), options)
        seconds = time.perf_counter() - began
        episodes = 2 if self._small else 100
        results = Evaluate(
            (run,), episodes=episodes, num_envs=min(episodes, 100), device=self.device,
            engine="auto", baselines=False, pictures=False, json=self.out / "score.json",
        ).run()  # fmt: skip
        kept = ("return_mean", "return_ci95", "success_rate", "episodes")
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        losses = {key: value for key, value in last.items() if key.startswith("loss/")}
        found = {"updates": updates, "batch": batch, "seconds": round(seconds, 1)}
        return found | {key: results.get(key) for key in kept} | losses

    # --- Inside ----------------------------------------------------------------------------------

    def _config(self, **training: Any) -> Any:
        from diffplan.config.planners import get_config

        config = get_config("trajectory-diffuser")
        parts: dict[str, Any] = {"training": dataclasses.replace(config.training, **training)}
        if self._small:  # a rehearsal is to end soon, whatever it measures
            for name in ("proposer", "denoiser", "heads"):
                parts[name] = dataclasses.replace(getattr(config, name), width=16)
        return dataclasses.replace(config, **parts)

    def _data(self) -> Any:
        from diffplan.envs.datasets import load_dataset
        from diffplan.envs.makers.pointmaze_data import make_pointmaze

        steps = 3000 if self._small else 200_000
        name = f"diffplan/gpu-medium-{steps}-v0"
        return load_dataset(make_pointmaze("pointmaze-medium", steps, 0, dataset_id=name))

    def _median(self, call: Callable[[], object]) -> float:
        return statistics.median(self._times(call))

    def _times(self, call: Callable[[], object]) -> list[float]:
        """Seconds of calls after three that are not counted, each waited for."""
        for _ in range(3):
            call()
        times = list[float]()
        begin = time.perf_counter()
        while len(times) < 5 or time.perf_counter() - begin < self.calls_seconds:
            self._wait()
            before = time.perf_counter()
            call()
            self._wait()
            times.append(time.perf_counter() - before)
        return times

    def _wait(self) -> None:
        import torch

        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


@contextmanager
def _tf32(on: bool) -> Iterator[None]:
    """Whether float32 products on the GPU may round their inputs to TF32."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if on else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _machine(device: str) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "memory GiB": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
        }
    return found


def _ms(times: list[float]) -> float:
    return round(1000 * statistics.median(times), 4)


def table(report: dict[str, Any]) -> str:
    """The report as text: ceilings, decisions with their share of them, training, score."""
    machine = report["machine"]
    lines = [f"{machine.get('device', 'cpu')}, PyTorch {machine['torch']}"]
    ceilings = report.get("ceilings", {})
    if without := _without_result(ceilings):
        lines.append(f"ceilings: {without}")
        ceilings = {}
    lines.append(", ".join(f"{name} {value:.3g}" for name, value in ceilings.items()))
    lines.append(f"tests: {report.get('tests')}")
    lines.append(
        f"{'size':10} {'engine':20} {'batch':>6} {'predict ms':>10} {'device ms':>10} "
        f"{'plans/s':>10} {'of ceiling':>10}"
    )
    for part in ("decisions", "training"):
        rows = report.get(part, [])
        if without := _without_result(rows):
            lines.append(f"{part}: {without}")
        elif part == "decisions":
            lines += [_decision_line(row, ceilings) for row in rows]
        else:
            lines += [_training_line(row) for row in rows]
    lines.append(f"score: {report.get('score')}")
    lines += [f"warning: {each}" for each in report["warnings"]]
    lines.append(f"seconds: {report['seconds']}")
    return "\n".join(lines)


def _without_result(part: Any) -> str | None:
    """Why a part has no figures: it failed, or its turn came too late."""
    if not isinstance(part, dict):
        return None
    return next((f"{why}, {part[why]}" for why in ("failed", "left out") if why in part), None)


def _failed(part: Any) -> bool:
    if isinstance(part, list):
        return any("failed" in row for row in part)
    return _without_result(part) is not None or bool(part.get("exit"))


def _training_line(row: dict[str, Any]) -> str:
    kind = "bf16" if row["bf16"] else "tf32"
    if "failed" in row:
        return f"training {kind} batch {row['batch']:5}: {row['failed']}"
    return f"training {kind} batch {row['batch']:5}: {row['windows/s']:9,.0f} windows/s"


def _decision_line(row: dict[str, Any], ceilings: dict[str, Any]) -> str:
    engine = row["engine"]
    kind = "bf16" if "bf16" in engine else "tf32" if "tf32" in engine else "float32"
    top = ceilings.get(f"{kind} flop/s")
    share = f"{100 * row['flop/s'] / top:9.1f}%" if top else ""
    return (
        f"{row['size']:10} {engine:20} {row['batch']:6} {row['predict ms']:10.3f} "
        f"{row['device ms']:10.3f} {row['plans/s on the device']:10,} {share:>10}"
    )


if __name__ == "__main__":
    sys.exit(main(Gpu, __spec__.name, sys.argv[1:]))
