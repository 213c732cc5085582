"""Kills, signals, starved machines and hostile surroundings, in small; `make torture` does all."""

import subprocess
import sys

import pytest

pytest.importorskip("diffplan.scripts.checks.torture", reason="of a checkout")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_commands_are_whole_exact_and_deaf_to_data_whatever_befalls_them() -> None:
    # a process of its own: it forks, and a test run has threads
    words = [sys.executable, "-W", "ignore", "-m", "diffplan.scripts.checks.torture"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("all ")]
    count, *faults = line.split()[1:]
    assert int(count) > 40 and faults == ["0"] * 4
