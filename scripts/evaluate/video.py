"""Videos of an evaluation: mazes drawn with the plans, other environments as they render."""

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import RecordVideo
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


def maze_video(stem: Path, traces: Sequence[Trace], layout: ObservationLayout, maze: Maze) -> Path:
    """Animate episodes in the maze: the path so far, and the current plan with its proposal.

    Writes `stem`.mp4 where imageio-ffmpeg is installed (the `video` extra), else `stem`.gif;
    returns the file written.
    """
    frames = (frame for trace in traces for frame in _maze_frames(trace, layout, maze))
    return write_video(stem, frames)


def _maze_frames(trace: Trace, layout: ObservationLayout, maze: Maze) -> Iterator[np.ndarray]:
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
        import imageio_ffmpeg
    except ImportError:
        return _write_gif(stem.with_suffix(".gif"), frames)
    frames = iter(frames)
    first = next(frames)
    height, width = (size - size % 2 for size in first.shape[:2])  # H.264 wants even sides
    path = stem.with_suffix(".mp4")
    with written_whole(path) as partial:
        writer = imageio_ffmpeg.write_frames(
            str(partial), (width, height), fps=_FPS, macro_block_size=2, quality=7
        )
        # a generator: it takes frames once it was started
        writer.send(None)
        try:
            for frame in (first, *frames):
                writer.send(np.ascontiguousarray(frame[:height, :width]))
        finally:
            writer.close()
    return path


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
        import moviepy  # noqa: F401
    except ImportError:
        raise DiffplanError(
            "--video needs moviepy here; pip install 'diffplan[video]' or leave --video out"
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


def rendered_video(
    folder: Path, policy: Policy, make_env: Callable[[], gym.Env], *, episodes: int, seed: int
) -> list[Path]:
    """Run `episodes` in rgb_array environments, recorded by Gymnasium; returns the files."""

    def recorded() -> gym.Env:
        return RecordVideo(
            make_env(),
            str(folder),
            episode_trigger=lambda _: True,
            name_prefix="video",
            disable_logger=True,
        )

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Overwriting existing videos")
        rollout(policy, recorded, episodes=episodes, num_envs=1, seed=seed, description="video")
    return [folder / f"video-episode-{episode}.mp4" for episode in range(episodes)]
