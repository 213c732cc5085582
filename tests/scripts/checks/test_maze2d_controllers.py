"""The maze2d controllers beside D4RL's references: what is measured and written."""

import json
from pathlib import Path

import pytest

module = pytest.importorskip("diffplan.scripts.checks.maze2d_controllers", reason="of a checkout")


def main(words: list[str]) -> int:
    return int(module.main(module.Maze2dControllers, module.__name__, words))


def test_returns_are_written_beside_the_references(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "returns.json"
    arguments = ["--mazes", "umaze", "open", "--episodes", "6"]
    assert main([*arguments, "--seed", "3", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert result["command"].startswith(f"python -m {module.__name__} --mazes umaze open")
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
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
