"""The notebooks run as they stand, offline, and are small."""

import json
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("gymnasium_robotics")

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_it_stands(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MPLBACKEND")  # the kernel's own draws into the notebook
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises where a cell does
    assert "image/png" in json.dumps(notebook)


@pytest.mark.skipif(not NOTEBOOKS, reason="only a checkout has notebooks/")
def test_notebooks_are_small_and_have_their_pictures() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["maze", "own_data"]
    for path in NOTEBOOKS:
        assert path.stat().st_size < 150_000, path
        assert "image/png" in path.read_text(), path
