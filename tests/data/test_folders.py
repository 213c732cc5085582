"""Folders that are being written: removed by whoever writes, or by the next where it was killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffplan.data.folders import building_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_hidden_and_gone_at_the_end(tmp_path: Path) -> None:
    with building_folder(tmp_path / "new", "data") as building:
        assert building.name.startswith(".data-")
        (building / "copy").write_text("whole")
        os.rename(building / "copy", tmp_path / "copy")
    assert names(tmp_path / "new") == [] and (tmp_path / "copy").read_text() == "whole"
    with pytest.raises(ZeroDivisionError), building_folder(tmp_path / "new", "data"):
        raise ZeroDivisionError
    assert names(tmp_path / "new") == []


def test_what_a_living_process_writes_stays_and_what_a_killed_one_left_goes(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom diffplan.data.folders import building_folder\n"
        "with building_folder(Path(sys.argv[1]), 'data'): print('there', flush=True); input()\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, **pipes) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"there\n"
        (theirs,) = names(tmp_path)
        with building_folder(tmp_path, "data"):
            assert theirs in names(tmp_path)
        writer.kill()
    assert names(tmp_path) == [theirs]
    with building_folder(tmp_path, "data") as building:
        assert names(tmp_path) == [building.name]


def test_where_nothing_is_locked_age_tells(tmp_path: Path) -> None:
    for name, hours in ((".data-old", 25), (".data-young", 1)):
        (tmp_path / name).mkdir()
        then = time.time() - 3600 * hours
        os.utime(tmp_path / name, (then, then))
    with building_folder(tmp_path, "data"):
        pass
    assert names(tmp_path) == [".data-young"]
