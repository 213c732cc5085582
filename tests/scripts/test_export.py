"""`diffplan export` refuses what it cannot do before it loads a model."""

from pathlib import Path

import pytest

from diffplan.scripts.cli import main


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--batch-sizes", "4", "0"], "--batch-sizes is 4 0, expected numbers from 1 on"),
        (["--engine", "onyx"], "--engine is 'onyx', expected"),
        ([], "no folder"),
    ],
)
def test_a_wrong_word_is_one_line(
    options: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "robot"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and expected in line
    assert not list(tmp_path.iterdir())
