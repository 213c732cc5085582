"""`diffplan maze2d-controllers`: what it measures and writes."""

import json
from pathlib import Path

import pytest

from diffplan.scripts.cli import main


def test_returns_are_written_beside_the_references(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "returns.json"
    arguments = ["maze2d-controllers", "--mazes", "umaze", "open", "--episodes", "6"]
    assert main([*arguments, "--seed", "3", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert result["command"].startswith("diffplan maze2d-controllers --mazes umaze open")
    umaze, open_maze = result["mazes"]["umaze"], result["mazes"]["open"]
    assert umaze["d4rl_reference_maximum"] == 161.86
    assert umaze["plans at every start"]["reached"] == 1.0
    assert umaze["plans once"]["return"] < umaze["plans at every start"]["return"]
    expected = umaze["plans once"]["return"] - 161.86
    assert umaze["difference"] == pytest.approx(expected, abs=0.006)
    assert "d4rl_reference_maximum" not in open_maze
    assert "D4RL's maximum is 161.86" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--episodes", "1"], "--episodes is 1 and --seed 1000"),
        (["--mazes", "u"], "unknown maze 'u'"),
        (["--json", "/proc/none/x.json"], "--json"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["maze2d-controllers", *arguments]) == 2
    assert message in capsys.readouterr().err
