"""What every test gets: one thread a process, no display, no network, data folders of its own.

Then small synthetic datasets, small configurations and small models for the planner's tests.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Set before anything imports PyTorch, NumPy, Matplotlib or the hub's client; subprocesses inherit
# them. One thread: two test processes share two cores, and sums come out the same on any machine.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # tests import ONNX Runtime by themselves, too

import hypothesis
import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffplan.config import sections
from diffplan.config.config import Config, by_kind, with_settings
from diffplan.config.planners import get_config
from diffplan.config.sections import PlanningConfig
from diffplan.data import drawing
from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.data.windows import WindowSampler
from diffplan.model import build
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.model.spec import ModelSpec
from diffplan.planning.stages import Noise

# Shared machines stall for longer than any deadline worth setting; CI must not fail by chance.
hypothesis.settings.register_profile(
    "diffplan", deadline=None, derandomize="CI" in os.environ, print_blob=True
)
hypothesis.settings.load_profile("diffplan")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none; long files first, so that all end at once."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _no_data_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep every test away from the datasets and caches in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        folders = ("MINARI_DATASETS_PATH", "D4RL_DATASET_DIR", "OGBENCH_DATASET_DIR")
        for name in (*folders, "DIFFPLAN_CACHE"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


@pytest.fixture(scope="session", autouse=True)
def _small_constants() -> Iterator[None]:
    """Constants for datasets of a few hundred states and networks of a few units.

    As many landmarks as states would join no two episodes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "DRAWING", dataclasses.replace(drawing.DRAWING, landmarks=40))
        patch.setattr(sections, "_FEATURES", 16)
        patch.setattr(build, "_DEPTH", 1)
        yield


@pytest.fixture
def minari_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that Minari takes for its root during one test."""
    root = tmp_path / "minari"
    root.mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    return root


# --- Small synthetic planning problems -----------------------------------------------------------


def _join(
    states: Sequence[np.ndarray],
    actions: Sequence[np.ndarray],
    rewards: Sequence[np.ndarray] | None = None,
    layout: ObservationLayout | None = None,
) -> Episodes:
    steps = [len(part) for part in actions]
    every, taken = np.concatenate(states), np.concatenate(actions)
    layout = ObservationLayout(every.shape[1]) if layout is None else layout
    starts = np.cumsum([0, *steps])
    ends = np.zeros(len(taken), np.bool_)
    ends[starts[1:] - 1] = True
    bounds = ((-2.0,) * taken.shape[1], (1.0,) * taken.shape[1])
    return Episodes(
        states=every.astype(np.float32),
        goals=np.zeros((len(every), layout.goal_dim), np.float32) if layout.goal_dim else None,
        actions=taken.astype(np.float32),
        rewards=np.concatenate(rewards or [np.zeros(n) for n in steps]).astype(np.float32),
        terminations=np.zeros_like(ends),
        truncations=ends,
        state_starts=np.cumsum([0, *(len(part) for part in states)]),
        step_starts=starts,
        layout=layout,
        info=DatasetInfo("tiny", "arrays", None, {}, *bounds, {}),
    ).validate()


@pytest.fixture(scope="session")
def join_episodes() -> Callable[..., Episodes]:
    """Makes Episodes from lists of states, actions and (else zero) rewards, one per episode."""
    return _join


@pytest.fixture(scope="session")
def tiny_episodes() -> Episodes:
    """12 episodes of 10-30 steps with rewards: 3 state columns, 2 actions in [-2, 1]."""
    rng = np.random.default_rng(0)
    states, actions, rewards = [], [], []
    for _ in range(12):
        here, visited, taken = rng.uniform(-1, 1, 3), [], []
        for _ in range(rng.integers(10, 31)):
            action = np.clip(-0.5 * here[:2] + 0.3 * rng.normal(size=2), -2, 1)
            visited.append(here)
            taken.append(action)
            here = 0.95 * here + 0.2 * np.array([*action, action.prod()])
        states.append(np.stack([*visited, here]))
        actions.append(np.stack(taken))
        rewards.append(1 - np.abs(states[-1][1:, 0]))
    return _join(states, actions, rewards)


@pytest.fixture(scope="session")
def tiny_goal_episodes() -> Episodes:
    """20 episodes of 20-44 steps of a point that is steered: x, y, and their velocities."""
    rng = np.random.default_rng(0)
    states, actions = [], []
    for _ in range(20):
        place, speed, goal = rng.uniform(-2, 2, 2), np.zeros(2), rng.uniform(-2, 2, 2)
        visited, taken = [np.concatenate([place, speed])], []
        for _ in range(rng.integers(20, 45)):
            taken.append(np.clip(goal - place - speed + 0.1 * rng.normal(size=2), -2, 1))
            speed = 0.8 * speed + 0.2 * taken[-1]
            place = place + 0.2 * speed
            visited.append(np.concatenate([place, speed]))
        states.append(np.stack(visited))
        actions.append(np.stack(taken))
    layout = ObservationLayout(4, 2, (0, 1), (2, 3), ("observation",))
    return _join(states, actions, layout=layout)


_SMALL: dict[str, Any] = {
    "plan.horizon": 4,
    "proposer.width": 16,
    "proposer.depth": 2,
    "denoiser.width": 16,
    "denoiser.depth": 1,
    "heads.width": 16,
    "training.batch_size": 16,
}


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., Config]:
    """Makes a named configuration with small sizes: tiny_config(name, {"plan.stride": 1}).

    One candidate and one step, whatever the defaults, where the configuration stands for no paper.
    """

    def make(name: str = "trajectory-diffuser", changes: dict[str, Any] | None = None) -> Config:
        named = get_config(name)
        config = by_kind(named, has_goal=True)
        returns = named.data.condition_on_returns  # open: where there is no goal
        stride = (changes or {}).get("plan.stride", config.plan.stride)
        values = {
            **_SMALL,
            "planning.replan_every": min(3 * stride, config.planning.replan_every or 16),
            "data.condition_on_returns": returns,
            "planning.target_quantile": config.planning.target_quantile or 0.75,
        }
        if name != "trajectory-diffuser-published":
            values["planning.candidates"] = 1
        # tests choose among candidates of models whose own planning does not
        if config.heads.value == "auto":
            values["heads.value"] = "returns"
        if name == "trajectory-diffuser":
            values["planning.denoising_steps"] = 1
        return with_settings(config, values | (changes or {}))

    return make


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[Config, Episodes], PlannerModel]:
    """Makes a model fitted to the scales of some episodes, with random weights everywhere.

    The networks' zero layers are filled too: an untrained denoiser returns the proposal.
    """

    def make(config: Config, episodes: Episodes) -> PlannerModel:
        torch.manual_seed(0)
        sampler = WindowSampler(episodes, config, seed=0)
        model = PlannerModel(
            ModelSpec.of(episodes, config, sampler.landmarks, sampler.things), config
        )
        bounds = (torch.tensor(episodes.info.action_low), torch.tensor(episodes.info.action_high))
        model.fit(sampler, *bounds, 0)
        model.residual_rms.uniform_(0.2, 0.6)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.25)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def models(
    tiny_config: Callable[..., Config],
    tiny_model: Callable[..., PlannerModel],
    tiny_goal_episodes: Episodes,
    tiny_episodes: Episodes,
) -> Callable[..., PlannerModel]:
    """Makes (once each) a model by the name of its configuration, with changes."""
    made: dict[str, PlannerModel] = {}

    def get(
        name: str = "trajectory-diffuser", *, rewards: bool = False, **changes: Any
    ) -> PlannerModel:
        options = {key.replace("__", "."): value for key, value in changes.items()}
        key = f"{name} {rewards} {options}"
        if key not in made:
            episodes = tiny_episodes if rewards else tiny_goal_episodes
            made[key] = tiny_model(tiny_config(name, options), episodes)
        return made[key]

    return get


@pytest.fixture(scope="session")
def plan_inputs() -> Callable[..., tuple[Context, Noise]]:
    """Makes a random context and all the noise of a plan: plan_inputs(model, settings, rows=3)."""

    def make(
        model: PlannerModel,
        options: PlanningConfig,
        rows: int = 3,
        seed: int = 0,
        size: float = 1.0,
    ) -> tuple[Context, Noise]:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        dim, k, horizon = model.spec.planned_dim, options.candidates, model.config.plan.horizon
        goal_dim = model.spec.goal_dim
        context = Context(
            size * normal(rows, dim),
            normal(rows, goal_dim) if goal_dim else None,
            normal(rows) if model.use_returns else None,
        )
        noise = Noise(
            normal(rows, k, horizon, dim + 1),
            normal(rows, k, model.rows, model.plan_dim),
            normal(options.denoising_steps, rows, k, model.rows, model.plan_dim),
            normal(rows, k),
        )
        return context, noise

    return make


# --- What a GPU would be asked to do -------------------------------------------------------------

_LAUNCHES = Path(__file__).with_name("launches.json")
_NO_LAUNCH = ("empty", "detach", "alias", "_unsafe_view", "lift_fresh", "is_same_size")
_ROOM = 1.1  # other versions of PyTorch take an operation apart otherwise


class _Lists(TorchFunctionMode):
    """Refuses tensors on the GPU made of Python's numbers, which never reach a dispatch mode."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            made = args[0].is_meta and any(isinstance(x, list | np.ndarray) for x in index)
        else:
            there = torch.device(kwargs.get("device") or "cpu").type == "meta"
            made = func in (torch.tensor, torch.as_tensor) and there
        if made:
            raise AssertionError(f"{func.__name__} copies between the host and the GPU")
        return func(*args, **kwargs)


class Launches(TorchDispatchMode):
    """Counts what would be launched on a GPU, for which the meta device stands.

    That device itself refuses to be waited for and to make shapes from data; here, copies between
    it and the host are refused, which capturing a graph would refuse too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._lists = _Lists()

    def __enter__(self) -> "Launches":
        self._lists.__enter__()
        found: Launches = super().__enter__()
        return found

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._lists.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        self._check(name, (args, kwargs))
        made = func(*args, **kwargs)
        there = self._check(name, (args, kwargs, made))
        if there and not (func.is_view or name.startswith(_NO_LAUNCH)):
            self.count += 1
        return made

    def _check(self, name: str, tensors: Any) -> bool:
        """Whether any of them is on the GPU; then none of the host's may be more than a number."""
        found = [x for x in tree_leaves(tensors) if isinstance(x, torch.Tensor)]
        there = any(x.device.type == "meta" for x in found)
        # a number goes along with a launch; anything else is a copy
        here = any(x.device.type == "cpu" and (x.dim() or "copy" in name) for x in found)
        if there and here:
            raise AssertionError(f"{name} copies between the host and the GPU")
        return there


@pytest.fixture
def launches() -> Callable[[], Launches]:
    """Makes a counter of what would be launched on a GPU: `with launches() as found`."""
    return Launches


@pytest.fixture
def within_budget() -> Callable[[str, str, int], None]:
    """Checks a number of launches against what is recorded in launches.json.

    DIFFPLAN_LAUNCHES=record writes it anew.
    """

    def check(kind: str, name: str, count: int) -> None:
        recorded = json.loads(_LAUNCHES.read_text()) if _LAUNCHES.exists() else {}
        if os.environ.get("DIFFPLAN_LAUNCHES") == "record":
            recorded.setdefault(kind, {})[name] = count
            _LAUNCHES.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
        budget = recorded.get(kind, {}).get(name, 0)
        assert count <= _ROOM * budget, f"{kind} of {name}: {count} launches, {budget} recorded"

    return check
