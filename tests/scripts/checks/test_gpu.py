"""`make gpu` rehearsed on a CPU: every part runs and is written, what cannot run is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from diffplan.errors import DiffplanError, PartialResult

gpu = pytest.importorskip("diffplan.scripts.checks.gpu", reason="of a checkout")
ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_a_rehearsal_measures_every_part(
    minari_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # where the tests that need a GPU are looked for
    gpu.Gpu(out=tmp_path, device="cpu", calls_seconds=0.01).run()
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert list(report) == ["machine", "seconds", "warnings", *gpu.PARTS]
    assert list(report["seconds"]) == list(gpu.PARTS)
    assert set(report["ceilings"]) == {
        *(f"{kind} flop/s" for kind in ("bf16", "tf32", "float32")),
        "copy bytes/s",
    }
    assert "skipped" in report["tests"]["last line"]
    assert [row["size"] for row in report["decisions"]] == ["hopper"] * 2 + ["pointmaze"] * 2
    for row in report["decisions"]:
        assert row["predict ms"] > 0 and row["device ms"] > 0 and row["flop/s"] > 0
    (rate,) = report["training"]
    assert rate["windows/s"] == pytest.approx(16 * rate["updates/s"])
    assert report["score"]["episodes"] == 2 and (tmp_path / "score.json").is_file()
    text = gpu.table(report)
    assert "of ceiling" in text and "training tf32 batch    16" in text


def test_a_part_that_fails_or_comes_too_late_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no product today")

    monkeypatch.setattr(gpu.Gpu, "_ceilings", broken)
    with pytest.raises(PartialResult, match=r"failed or left out: ceilings; see .*gpu\.json"):
        gpu.Gpu(out=tmp_path, device="cpu", parts=("ceilings",)).run()
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["ceilings"] == {"failed": "RuntimeError: no product today"}
    capsys.readouterr()
    with pytest.raises(PartialResult):
        gpu.Gpu(out=tmp_path, device="cpu", parts=("ceilings",), seconds=-1.0).run()
    assert "ceilings: left out, began after 0 s" in capsys.readouterr().out
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["ceilings"] == {"left out": "began after 0 s"}
    assert gpu._failed({"exit": 1}) and not gpu._failed({"exit": 0})
    row = {"batch": 64, "bf16": False, "failed": "no rate within 1 s"}
    assert gpu._failed([row]) and "64: no rate within 1 s" in gpu._training_line(row)


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DiffplanError, match="--parts has 'speed', expected some of ceilings"):
        gpu.Gpu(out=tmp_path, parts=("speed",)).run()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DiffplanError, match="no CUDA device; --device cpu"):
        gpu.Gpu(out=tmp_path).run()
