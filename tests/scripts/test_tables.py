"""Tables of the documentation are what their JSON files say."""

import json
from pathlib import Path

import pytest

from diffplan.errors import DiffplanError
from diffplan.scripts.tables import update

DOCS = Path(__file__).parents[2] / "docs"

COUNTS = {
    "command": "diffplan pointmaze-counts",
    "mazes": {
        "umaze": {"episodes": 13304, "published": 13210.0},
        "large": {"episodes": 3323},
    },
}


def page(folder: Path) -> Path:
    (folder / "counts.json").write_text(json.dumps(COUNTS))
    path = folder / "page.md"
    path.write_text("before\n<!-- table: counts.json -->\nold\n<!-- end -->\nafter\n")
    return path


def test_a_table_is_written_between_its_markers_and_then_is_up_to_date(tmp_path: Path) -> None:
    path = page(tmp_path)
    assert update(tmp_path, check=True) == [path]
    assert "old" in path.read_text()  # checking writes nothing
    assert update(tmp_path) == [path]
    text = path.read_text()
    assert "| umaze | 13,304 | 13,210 | +0.7 % |" in text
    assert "| large | 3,323 | – | – |" in text
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert update(tmp_path, check=True) == []


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    page(tmp_path)
    (tmp_path / "counts.json").unlink()
    with pytest.raises(DiffplanError, match=r"counts\.json, which does not exist"):
        update(tmp_path)


@pytest.mark.skipif(not DOCS.is_dir(), reason="only a checkout has docs/")
def test_the_tables_in_docs_are_up_to_date() -> None:
    assert update(DOCS, check=True) == []
