"""Whether a control loop ever waits: what counts as a stall, and that every call plans for some."""

import json
from pathlib import Path

import pytest

stalls = pytest.importorskip("diffplan.scripts.checks.stalls", reason="only in a checkout")


def test_a_call_of_more_than_three_medians_is_a_stall() -> None:
    found = stalls._summary([1.0] * 50 + [2.9, 3.1, 40.0])
    assert (found["median"], found["longest"], found["stalls"]) == (1.0, 40.0, 2)


def test_calls_are_timed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "stalls.json"
    words = ["trajectory-diffuser", "--engine", "eager", "--envs", "3", "--calls", "12"]
    assert stalls.main(stalls.Stalls, "stalls", [*words, "--json", str(target)]) == 0
    found = json.loads(target.read_text())
    assert (
        found["engine"] == "eager" and 0 < found["own_ms"]["median"] <= found["own_ms"]["longest"]
    )
    assert "3 environments, 12 calls" in capsys.readouterr().out
    assert stalls.main(stalls.Stalls, "stalls", ["trajectory-diffuser", "--calls", "0"]) == 2
    assert "--calls is 0, expected at least 1" in capsys.readouterr().err
