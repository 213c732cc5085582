"""Videos of an evaluation: mazes drawn with the plans, other environments as they render."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffplan.data.info import ObservationLayout
from diffplan.envs.rollouts.batch import Policy
from diffplan.envs.rollouts.serial import rollout
from diffplan.envs.rollouts.traces import Trace
from diffplan.envs.simulators.mazes import Maze
from diffplan.errors import DiffplanError
from diffplan.scripts.report.files import written_whole
from diffplan.scripts.report.pictures import (
    EXECUTED,
    GOAL,
    PLAN,
    PROPOSAL,
    START,
    draw_maze,
    draw_plan,
    positions,
    style,
)

_FPS = 30
_EVERY = 3  # environment steps per frame
_LINGER = 60  # environment steps shown after the goal is reached


def maze_video(
    stem: Path,
    traces: Sequence[Trace],
    layout: ObservationLayout,
    maze: Maze,
    also: Callable[[Axes], None] | None = None,
) -> Path:
    """Animate episodes in the maze: the path so far, and the current plan with its proposal.

    also: draws what stands in the maze besides.

    Writes `stem`.mp4 where imageio-ffmpeg is installed (the `video` extra), else `stem`.gif;
    returns the file written.
    """
    frames = (frame for trace in traces for frame in _maze_frames(trace, layout, maze, also))
    return write_video(stem, frames)


def _maze_frames(
    trace: Trace,
    layout: ObservationLayout,
    maze: Maze,
    also: Callable[[Axes], None] | None = None,
) -> Iterator[np.ndarray]:
    states, goals = layout.split(trace.observations)
    xy = positions(states, layout)
    end = len(trace.rewards)
    if trace.success_step is not None:
        # afterwards the ball only hovers
        end = min(end, trace.success_step + _LINGER)
    with style():
        ratio = (len(maze.rows) - 1) / (len(maze.rows[0]) - 1)
        height = 6 * ratio + 0.8  # inches, with room for the title and the legend
        figure = Figure(figsize=(6, height), dpi=80)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0.01, 0.45 / height, 0.98, 6 * ratio / height - 0.01))
        draw_maze(axes, maze)
        if also is not None:
            also(axes)
        figure.legend(handles=_entries(), loc="lower center", ncols=4)
        if goals is not None:
            axes.plot(*goals[0, :2], "*", color=GOAL, markersize=24, markeredgecolor="white")
        # maze and goal once; only what moves is drawn in every frame
        canvas.draw()
        background = canvas.copy_from_bbox(figure.bbox)
        (path,) = axes.plot([], [], color=EXECUTED, linewidth=3, animated=True)
        (ball,) = axes.plot([], [], "o", color=START, markersize=8, animated=True)
        lines: list[Line2D] = []
        drawn = None
        for step in range(0, end + 1, _EVERY):
            made = [plan for at, plan in trace.plans.items() if at <= step]
            if made and made[-1] is not drawn:
                for line in lines:
                    line.remove()
                drawn = made[-1]
                lines = draw_plan(axes, drawn, layout)
            path.set_data(*xy[: step + 1].T)
            ball.set_data(*xy[step : step + 1].T)
            title = axes.set_title(
                f"seed {trace.seed}   step {step}   return {trace.rewards[:step].sum():.0f}"
            )
            canvas.restore_region(background)
            for artist in (path, *lines, ball, title):
                axes.draw_artist(artist)
            yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _entries() -> list[Line2D]:
    return [
        Line2D([], [], color=GOAL, marker="*", linestyle="", markersize=14, label="goal"),
        Line2D([], [], color=EXECUTED, linewidth=3, label="path"),
        Line2D([], [], color=PROPOSAL, linestyle="--", linewidth=2, label="proposal"),
        Line2D([], [], color=PLAN, marker="o", markersize=3, label="optimised plan"),
    ]


def write_video(stem: Path, frames: Iterable[np.ndarray]) -> Path:
    """Write frames [height, width, 3] uint8 as H.264 or, without imageio-ffmpeg, as a GIF."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError:
        return _write_gif(stem.with_suffix(".gif"), frames)
    path = stem.with_suffix(".mp4")
    film = _film(path, _FPS)
    for frame in frames:
        film.send(frame)
    _end(film)
    return path


_Film = Generator[None, np.ndarray | None, None]


def _film(path: Path, fps: int) -> _Film:
    """A film that takes frames by `send`; None ends it, and then the file is there."""
    film = _filming(path, fps)
    next(film)
    return film


def _filming(path: Path, fps: int) -> _Film:
    import imageio_ffmpeg

    with written_whole(path) as partial:
        frame = yield
        assert frame is not None
        height, width = (size - size % 2 for size in frame.shape[:2])  # H.264 wants even sides
        writer = imageio_ffmpeg.write_frames(
            str(partial), (width, height), fps=fps, macro_block_size=2, quality=7
        )
        # a generator: it takes frames once it was started
        writer.send(None)
        try:
            while frame is not None:
                writer.send(np.ascontiguousarray(frame[:height, :width]))
                frame = yield
        finally:
            writer.close()


def _end(film: _Film) -> None:
    with contextlib.suppress(StopIteration):
        film.send(None)


def _write_gif(path: Path, frames: Iterable[np.ndarray]) -> Path:
    from PIL import Image

    images = [Image.fromarray(frame).quantize(64) for frame in frames]
    with written_whole(path) as partial:
        images[0].save(
            partial, save_all=True, append_images=images[1:], duration=1000 // _FPS, loop=0
        )
    return path


def check_rendering(make_env: Callable[[], gym.Env]) -> None:
    """Draw one frame of an rgb_array environment, so that long rollouts are not made in vain.

    Without a display MuJoCo draws through EGL unless MUJOCO_GL says otherwise.

    Raises:
        DiffplanError: No picture, with the reason and what to install or set.
    """
    no_display = not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if sys.platform == "linux" and no_display:
        os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError:
        raise DiffplanError(
            "--video needs imageio-ffmpeg here; pip install 'diffplan[video]' or leave --video out"
        ) from None
    env = make_env()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GLFW's, which the error below sums up
            env.reset(seed=0)
            picture = env.render()
    except Exception as error:  # every OpenGL binding has exceptions of its own
        name = env.spec.id if env.spec else "the environment"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DiffplanError(
            f"--video cannot draw {name} ({reason}); set MUJOCO_GL to egl or osmesa and install "
            "libegl1 or libosmesa6, or leave --video out"
        ) from None
    env.close()
    if not isinstance(picture, np.ndarray):
        raise DiffplanError("--video: the environment draws no rgb_array; leave --video out")


class _Filmed(gym.Wrapper[Any, Any, Any, Any]):
    """An rgb_array environment, a file for each of its episodes."""

    def __init__(self, env: gym.Env, folder: Path) -> None:
        super().__init__(env)
        self.folder, self.files = folder, list[Path]()
        self._film: _Film | None = None

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        self.end()
        found = super().reset(**options)
        self.files.append(self.folder / f"video-episode-{len(self.files)}.mp4")
        self._film = _film(self.files[-1], self.metadata.get("render_fps", _FPS))
        self._film.send(self.render())  # type: ignore[arg-type]
        return found

    def step(self, action: Any) -> Any:
        found = super().step(action)
        if self._film is not None:
            self._film.send(self.render())  # type: ignore[arg-type]
        return found

    def end(self) -> None:
        if self._film is not None:
            _end(self._film)
            self._film = None


def rendered_video(
    folder: Path, policy: Policy, make_env: Callable[[], gym.Env], *, episodes: int, seed: int
) -> list[Path]:
    """Run `episodes` in an rgb_array environment and film them; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    filmed: list[_Filmed] = []

    def recorded() -> gym.Env:
        filmed.append(_Filmed(make_env(), folder))
        return filmed[-1]

    rollout(policy, recorded, episodes=episodes, num_envs=1, seed=seed, description="video")
    for env in filmed:
        env.end()
    return [file for env in filmed for file in env.files]
