"""What a study is given, data or a trained run: looked at before anything is done."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from diffplan.errors import DiffplanError
from diffplan.model.run_folder import Header, find_checkpoint, list_checkpoints, read_header
from diffplan.scripts.planning_options import as_words
from diffplan.scripts.studies.rows import Row, data_name
from diffplan.scripts.train import Train

if TYPE_CHECKING:
    from diffplan.data.episodes import Episodes
    from diffplan.data.info import DatasetInfo, ObservationLayout


_Decided = tuple[dict[str, Any], tuple[str, ...]]  # settings, and what of them the data decided


@dataclass(frozen=True)
class About:
    """What is known of data without holding them. identity: of what is in them.

    size: their steps and episodes; {} of a run.
    """

    info: DatasetInfo
    layout: ObservationLayout
    identity: str
    size: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A dataset by its word on the command line, or the folder of a run.

    env: Gymnasium id to score in. terminations, layout: of `diffplan train`.
    """

    word: str
    env: str | None = None
    terminations: str | None = None
    layout: str | None = None
    _decided: dict[str, _Decided] = field(default_factory=dict, compare=False, repr=False)

    # data are large: those of one source at a time
    _held: ClassVar[dict[Source, Episodes]] = {}

    @property
    def name(self) -> str:
        """Of its folder in a study."""
        return data_name(self.word)

    @cached_property
    def header(self) -> Header | None:
        """Of the run, where it is one."""
        path = Path(self.word)
        if not path.is_dir() or not list_checkpoints(path):
            return None
        return read_header(find_checkpoint(path))

    @cached_property
    def about(self) -> About:
        """Raises DiffplanError where it cannot be trained on or scored in its environment."""
        from diffplan.data.episodes import fingerprint

        if self.header is not None:
            header = self.header
            if self.env is not None:
                raise DiffplanError(f"--env goes with data, and {self.word} is a run")
            self._check(header.info, header.layout)
            at = f"{header.fingerprint}, {header.step} updates in {header.seconds:.3f} s"
            return About(header.info, header.layout, at)
        episodes = self.episodes()
        self._check(episodes.info, episodes.layout)
        size = {"steps": episodes.num_steps, "episodes": episodes.num_episodes}
        return About(episodes.info, episodes.layout, fingerprint(episodes), size)

    @property
    def has_goal(self) -> bool:
        return self.about.layout.goal_dim > 0

    @property
    def tasks(self) -> int:
        """In how many tasks it is scored."""
        info = self.about.info
        return max(1, len(info.tasks or info.evaluation_tasks))

    def episodes(self) -> Episodes:
        """The data as they are trained on."""
        from diffplan.envs.datasets import load_dataset
        from diffplan.scripts.train.work import ended

        if self not in self._held:
            self._held.clear()
            episodes = load_dataset(self.word, self.env, layout=self.layout, progress=False)
            self._held[self] = ended(episodes, self.terminations, None, Path(self.word))
        return self._held[self]

    def command(self, row: Row, out: Path, seed: int, steps: int) -> Train:
        """`diffplan train` of the row's network, which goes on where a run stopped."""
        return self._command(row, out, ["--steps", str(steps), "--seed", str(seed), "--resume"])

    def _command(self, row: Row, out: Path, more: list[str] | None = None) -> Train:
        words = [row.config, "--dataset", self.word, "--out", str(out), *(more or [])]
        for name in ("env", "terminations", "layout"):
            if (value := getattr(self, name)) is not None:
                words += [f"--{name}", value]
        for key, value in row.training.items():
            words += as_words(f"--{key.replace('_', '-')}", value)
        return Train.parse(words)

    def settings(self, row: Row) -> dict[str, Any]:
        """The settings that the row's configuration has on these data."""
        return self._decide(row)[0]

    def decisions(self, row: Row) -> tuple[str, ...]:
        """What of them was decided from the data, each with its reason."""
        if self.header is not None:
            return tuple(map(str, self.header.decisions))
        return self._decide(row)[1]

    def _decide(self, row: Row) -> _Decided:
        from diffplan.config.config import config_to_dict
        from diffplan.scripts.train.work import settled
        from diffplan.training.defaults import decide

        if row.trained not in self._decided:
            episodes, asked = self.episodes(), self._command(row, Path("x"))
            config = settled(asked, episodes.info, episodes.layout, lambda line: None)
            config, decisions = decide(config, episodes)
            settings = json.loads(json.dumps(config_to_dict(config)))
            self._decided[row.trained] = settings, tuple(map(str, decisions))
        return self._decided[row.trained]

    def refusal(self, row: Row) -> str | None:
        """Why a row cannot be done here; None where it can."""
        if self.header is None:
            if row.method is not None and self.tasks > 1:
                return f"model-free methods play one task, {self.word} has {self.tasks}"
            if not row.goals and self.has_goal:
                return "for data without a goal"
            return None
        from diffplan.agents import load_agent

        if row.method is not None:
            return f"{self.word} is trained already"
        if row.tuned:
            return f"{self.word} would plan so from then on; see `diffplan tune`"
        try:
            load_agent(self.word, tuned=False, **row.planned(self.has_goal))
        except DiffplanError as error:
            return str(error)
        return None

    def _check(self, info: DatasetInfo, layout: ObservationLayout) -> None:
        """Refuse before the training what could not be scored after it."""
        from diffplan.envs.simulators.compatibility import check_environment
        from diffplan.envs.simulators.tasks import task_infos

        for own in task_infos(info):
            if own.env_id is None:
                raise DiffplanError(
                    f"{self.word} does not say in which environment it was collected, and a study "
                    "scores in it; give --env GYMNASIUM_ID"
                )
            # raises where the simulator is missing, too
            if check_environment(layout, own) is None:
                raise DiffplanError(
                    f"{own.env_id} has no time limit, and an episode may never end; register it "
                    "with max_episode_steps"
                )
