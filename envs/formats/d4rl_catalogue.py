"""The D4RL datasets by name: where their files are, what is in them, which file can be D4RL's."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASE_URL = "http://rail.eecs.berkeley.edu/datasets/offline_rl"

# Labels of the data, as stored in DatasetInfo.details["data_source"].
D4RL_FILE = "D4RL file"
NOT_D4RL_FILE = "not D4RL's file"
UNVERIFIED_FILE = (
    "unverified: name and contents are as in D4RL's file, whose exact number of steps is not known"
)

# A file that some other software wrote after D4RL's layout tells so by these attributes; the
# official files carry none.
_FOREIGN_ATTRIBUTES = ("made_by", "env_id", "policy", "policies", "seed")
_GYM_KEYS = frozenset({"next_observations", "infos/action_log_probs", "infos/qpos", "infos/qvel"})
_DEMONSTRATIONS = 25  # episodes of each human dataset of the hand
_ROUNDING = 0.01  # of nominal sizes: a set of "10^6 steps" may lack its unfinished last episodes


@dataclass(frozen=True)
class D4RLDataset:
    """One dataset of D4RL.

    name: as in D4RL, "hopper-medium-v2". domain: its heading, "hopper", "maze2d", "antmaze",
    "kitchen" or "adroit". folder: below the base of the URLs. filename: last part of the URL,
    also the name in the local folder. observation_dim, action_dim: columns. time_limit: steps of
    an episode at evaluation; human demonstrations and maze2d's legs do not keep to it.
    has_timeouts: whether the file marks where episodes were cut.
    steps: rows of the file where they are known exactly, else None. nominal_steps: the size given
    in the D4RL paper (arXiv 2004.07219, appendix), which may be rounded; None without one.
    """

    name: str
    domain: str
    folder: str
    filename: str
    observation_dim: int
    action_dim: int
    time_limit: int
    has_timeouts: bool
    steps: int | None
    nominal_steps: int | None

    @property
    def url(self) -> str:
        """Where the file is: below `DIFFPLAN_D4RL_URL` (a mirror), by default at Berkeley."""
        base = os.environ.get("DIFFPLAN_D4RL_URL") or BASE_URL
        return f"{base.rstrip('/')}/{self.folder}/{self.filename}"

    @property
    def path(self) -> Path:
        """Where the file belongs on this machine, whether or not it is there."""
        return d4rl_folder() / self.filename

    @property
    def required(self) -> frozenset[str]:
        """Keys that the file has beside the arrays of every file.

        The gym files of version 2 keep what followed, the simulator's state and the policy's
        log-probabilities; those of a single policy keep that policy. maze2d keeps the goals that
        its controller went for.
        """
        if self.folder == "gym_mujoco_v2":
            policy = {"metadata"} if re.fullmatch(r"\w+-(medium|expert)-v2", self.name) else set()
            return _GYM_KEYS | policy
        return frozenset({"infos/goal"}) if self.domain == "maze2d" else frozenset()

    @property
    def size(self) -> str:
        """Steps as text: "1,000,000 steps", "about 1,000,000 steps" or "size not known"."""
        if self.steps is not None:
            return f"{self.steps:,} steps"
        return f"about {self.nominal_steps:,} steps" if self.nominal_steps else "size not known"


def d4rl_folder() -> Path:
    """`D4RL_DATASET_DIR`, by default ~/.d4rl/datasets: the folder that D4RL itself uses."""
    folder = os.environ.get("D4RL_DATASET_DIR")
    return Path(folder).expanduser() if folder else Path.home() / ".d4rl" / "datasets"


def _gym() -> list[D4RLDataset]:
    # columns of observations and actions
    widths = {"hopper": (11, 3), "halfcheetah": (17, 6), "walker2d": (17, 6), "ant": (111, 8)}
    nominal = {"random": 1, "medium": 1, "expert": 1, "medium-expert": 2, "full-replay": 1}
    # Replay buffers of known length; HalfCheetah and the full buffers hold whole rounds of 1000.
    replay = {"hopper": 402_000, "halfcheetah": 202_000, "walker2d": 302_000, "ant": 302_000}
    found = []
    for task, dims in widths.items():
        for kind in ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert"):
            millions = nominal.get(kind)
            about = replay[task] if millions is None else millions * 1_000_000
            exact = task == "halfcheetah" or kind.endswith("replay")
            filename = f"{task}_{kind.replace('-', '_')}-v2.hdf5"
            found.append(
                D4RLDataset(
                    f"{task}-{kind}-v2",
                    task,
                    "gym_mujoco_v2",
                    filename,
                    *dims,
                    time_limit=1000,
                    has_timeouts=True,
                    steps=about if exact else None,
                    nominal_steps=about,
                )
            )
    return found


def _maze2d() -> list[D4RLDataset]:
    limits = {"open": 150, "umaze": 300, "medium": 600, "large": 800}
    # open has no published size
    millions = {"umaze": 1, "medium": 2, "large": 4}
    found = []
    for maze, limit in limits.items():
        for reward in ("sparse", "dense"):
            # the open maze stayed at version 0, whose file carries no version
            version, suffix = ("v0", "") if maze == "open" else ("v1", "-v1")
            steps = millions[maze] * 1_000_000 if maze in millions else None
            found.append(
                D4RLDataset(
                    f"maze2d-{maze}{'-dense' if reward == 'dense' else ''}-{version}",
                    "maze2d",
                    "maze2d",
                    f"maze2d-{maze}-{reward}{suffix}.hdf5",
                    4,
                    2,
                    time_limit=limit,
                    has_timeouts=True,
                    steps=steps,
                    nominal_steps=steps,
                )
            )
    return found


def _antmaze() -> list[D4RLDataset]:
    files = {
        # file name, many starts, many goals
        "umaze": ("u-maze", False, False),
        "umaze-diverse": ("u-maze", True, True),
        "medium-play": ("big-maze", True, False),
        "medium-diverse": ("big-maze", True, True),
        "large-play": ("hardest-maze", True, False),
        "large-diverse": ("hardest-maze", True, True),
    }
    return [
        D4RLDataset(
            f"antmaze-{name}-v2",
            "antmaze",
            "ant_maze_v2",
            f"Ant_maze_{maze}_noisy_multistart_{starts}_multigoal_{goals}_sparse_fixed.hdf5",
            29,
            8,
            time_limit=700 if name.startswith("umaze") else 1000,
            has_timeouts=True,
            steps=None,
            nominal_steps=1_000_000,
        )
        for name, (maze, starts, goals) in files.items()
    ]


def _kitchen() -> list[D4RLDataset]:
    files = {
        "complete": ("mini_kitchen_microwave_kettle_light_slider-v0.hdf5", 3_680),
        "partial": ("kitchen_microwave_kettle_light_slider-v0.hdf5", 136_950),
        "mixed": ("kitchen_microwave_kettle_bottomburner_light-v0.hdf5", 136_950),
    }
    return [
        D4RLDataset(
            f"kitchen-{kind}-v0",
            "kitchen",
            "kitchen",
            filename,
            60,
            9,
            time_limit=280,
            has_timeouts=False,
            steps=steps,
            nominal_steps=steps,
        )
        for kind, (filename, steps) in files.items()
    ]


def _adroit() -> list[D4RLDataset]:
    widths = {"pen": (45, 24), "hammer": (46, 26), "door": (39, 28), "relocate": (39, 30)}
    human = {"pen": 5_000, "hammer": 11_310, "door": 6_729, "relocate": 9_942}
    found = []
    for task, dims in widths.items():
        for kind in ("human", "cloned", "expert"):
            rounded = 500_000 if task == "pen" else 1_000_000
            found.append(
                D4RLDataset(
                    f"{task}-{kind}-v1",
                    "adroit",
                    "hand_dapg_v1",
                    f"{task}-{kind}-v1.hdf5",
                    *dims,
                    time_limit=100 if task == "pen" else 200,
                    has_timeouts=True,
                    steps=human[task] if kind == "human" else None,
                    nominal_steps=human[task] if kind == "human" else rounded,
                )
            )
    return found


CATALOGUE: dict[str, D4RLDataset] = {
    dataset.name: dataset for dataset in [*_gym(), *_maze2d(), *_antmaze(), *_kitchen(), *_adroit()]
}
"""D4RL's datasets by name: hopper-medium-v2, maze2d-umaze-v1, ..."""

_BY_STEM = {Path(dataset.filename).stem.lower(): name for name, dataset in CATALOGUE.items()}
_WITHOUT_VERSION = {re.sub(r"-v\d+$", "", name): name for name in CATALOGUE}


def canonical_name(stem: str) -> str | None:
    """The dataset that a name or the stem of a file means, None where it is none of D4RL's.

    Knows D4RL's names (hopper-medium-v2), the stems of its files (hopper_medium-v2,
    Ant_maze_u-maze_..., mini_kitchen_...) and either without the version (hopper-medium). Another
    version than the catalogue's is another dataset: None.
    """
    lowered = stem.lower()
    if lowered in _BY_STEM:
        return _BY_STEM[lowered]
    name = plain_stem(stem)
    return name if name in CATALOGUE else _WITHOUT_VERSION.get(name)


def plain_stem(stem: str) -> str:
    """A file's stem in the style of D4RL's names: lower case, hyphens, "sparse" left out.

    For files of other versions and of one's own, whose name still tells the task:
    hopper_medium-v0 is hopper-medium-v0, Ant_maze_x is antmaze-x, mini_kitchen_x is kitchen-x.
    """
    name = re.sub(r"[_\s]+", "-", stem.lower())
    name = name.removeprefix("mini-") if name.startswith("mini-kitchen") else name
    name = re.sub(r"^ant-maze(?=-|$)", "antmaze", name)
    return re.sub(r"^(maze2d-\w+)-sparse(?=-|$)", r"\1", name)


def data_source(
    path: Path,
    *,
    steps: int,
    episodes: int,
    observation_dim: int,
    action_dim: int,
    keys: Collection[str],
    attributes: Mapping[str, Any],
) -> str:
    """Whether a file can be D4RL's own: D4RL_FILE, UNVERIFIED_FILE or NOT_D4RL_FILE.

    D4RL's own has the name, the columns, the arrays and the number of steps of the catalogue, and
    human demonstrations are 25 episodes. Where only the paper's rounded number of steps is known,
    a file within 1 % of it is unverified. keys: of everything in the HDF5 file, groups included.
    attributes: of the file; one that says who made it rules the file out.
    """
    name = _BY_STEM.get(path.stem.lower())
    if name is None or any(key in attributes for key in _FOREIGN_ATTRIBUTES):
        return NOT_D4RL_FILE
    dataset = CATALOGUE[name]
    # nothing is known of the size: it cannot speak against the file
    about = steps if dataset.nominal_steps is None else dataset.nominal_steps
    margin = 0.0 if dataset.steps is not None else _ROUNDING * about
    known = (
        (observation_dim, action_dim) == (dataset.observation_dim, dataset.action_dim),
        ("timeouts" in keys) == dataset.has_timeouts,
        dataset.required.issubset(keys),
        not name.endswith("-human-v1") or episodes == _DEMONSTRATIONS,
        abs(steps - about) <= margin,
    )
    if not all(known):
        return NOT_D4RL_FILE
    return UNVERIFIED_FILE if dataset.steps is None else D4RL_FILE
