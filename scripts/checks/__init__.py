"""What serves this repository alone: run from a checkout, not in the wheel.

python -m diffplan.scripts.checks.tables               the tables in docs/ from their JSON files
python -m diffplan.scripts.checks.pointmaze_counts     PointMaze data beside published counts
python -m diffplan.scripts.checks.maze2d_controllers   maze2d beside D4RL's reference scores
python -m diffplan.scripts.checks.export RUN           exported planners beside their agents
python -m diffplan.scripts.checks.behaviour ENV        the actors whose rollouts are made data
python -m diffplan.scripts.checks.bad_inputs           hundreds of bad inputs, each named in a line
python -m diffplan.scripts.checks.coverage             how often intervals hold the truth
python -m diffplan.scripts.checks.stalls               whether a control loop ever waits
python -m diffplan.scripts.checks.mutants              one-line mistakes that no test notices
python -m diffplan.scripts.checks.gpu                  what a GPU gives (`make gpu`)
python -m diffplan.scripts.checks.training_rate        windows/s of several commits in turn
python -m diffplan.scripts.checks.constraints RUN      obstacles unseen in training, by each way
python -m diffplan.scripts.checks.composed RUN         where plans for two goals end
python -m diffplan.scripts.checks.sensing RUN          a planner that sees a few columns at a time
python -m diffplan.scripts.checks.editing RUN          what edited plans meet and keep
python -m diffplan.scripts.checks.replanning RUN       plans made anew, reused or inverted
python -m diffplan.scripts.checks.front_picture RUN    the README's picture
python -m diffplan.scripts.checks.torture              kills, full disks, bad environments
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffplan.scripts.cli import exit_status, parsed


def main(command: Any, module: str, argv: Sequence[str]) -> int:
    """Run a check with a command line's words; returns the exit status."""
    return exit_status(lambda: parsed(command, argv, f"python -m {module}").run())
