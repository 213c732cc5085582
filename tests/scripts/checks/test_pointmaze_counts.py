"""Counts of PointMaze episodes beside the published ones."""

import json
import shlex
from pathlib import Path

import pytest
import tyro

from diffplan.errors import DiffplanError

module = pytest.importorskip("diffplan.scripts.checks.pointmaze_counts", reason="of a checkout")
PointmazeCounts = module.PointmazeCounts


def test_counts_are_compared_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At 5,000 steps 66 episodes are expected, give or take 5."""
    file = tmp_path / "results" / "counts.json"
    counts = PointmazeCounts(("umaze",), 5_000, tolerance=0.25, json=file)
    counts.run()
    written = json.loads(file.read_text())
    assert written["mazes"]["umaze"]["published"] == pytest.approx(66.05)
    assert written["steps"] == 5_000
    words = shlex.split(written["command"])
    assert words[:3] == ["python", "-m", module.__name__]
    assert tyro.cli(PointmazeCounts, args=words[3:]) == counts
    with pytest.raises(DiffplanError, match="umaze differ from the published"):
        PointmazeCounts(("umaze",), 5_000, tolerance=1e-6, json=file).run()
    with pytest.raises(DiffplanError, match="unknown maze 'u'"):
        PointmazeCounts(("u",), 100, json=file).run()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env-steps", "0"], "--env-steps is 0"),
        (["--json", "a-file/x.json"], "cannot be written"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a-file").write_text("")
    assert module.main(PointmazeCounts, module.__name__, words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and message in line
