"""Videos: mazes by matplotlib, other environments as they render, machines that cannot draw."""

import sys

import gymnasium as gym
import numpy as np
import pytest

from diffplan.envs.rollouts.serial import rollout
from diffplan.envs.simulators.environments import evaluation_env_factory
from diffplan.envs.simulators.mazes import maze_of
from diffplan.errors import DiffplanError
from diffplan.scripts.evaluate import video


class Painted(gym.Env):
    """Ends after five steps; the picture brightens with them."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(1, np.float32), 0.0, self.time == 5, False, {}

    def render(self):
        return np.full((32, 48, 3), 40 * self.time, np.uint8)


class Still:
    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return np.zeros((len(observation), 1), np.float32), state


def maze_traces(agent, episodes):
    factory = evaluation_env_factory(agent.info)
    result = rollout(
        agent, factory, episodes=episodes, num_envs=2, seed=0, record=episodes, progress=False
    )
    return result.traces, maze_of(agent.info.env_id, agent.info.env_kwargs)


def test_a_maze_video_has_a_frame_every_third_step(maze_agent, tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    traces, maze = maze_traces(maze_agent, 2)
    path = video.maze_video(tmp_path / "video", traces, maze_agent.layout, maze)
    assert path == tmp_path / "video.mp4" and list(tmp_path.iterdir()) == [path]
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    ends = [len(trace.rewards) for trace in traces]
    assert frames == sum(len(range(0, end + 1, 3)) for end in ends)


def test_without_ffmpeg_the_video_is_a_gif(maze_agent, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    traces, maze = maze_traces(maze_agent, 1)
    path = video.maze_video(tmp_path / "video", traces, maze_agent.layout, maze)
    assert path == tmp_path / "video.gif"
    with Image.open(path) as image:
        assert image.n_frames > 5 and image.size[0] == 480


def test_frames_show_the_ball_moving(maze_agent):
    traces, maze = maze_traces(maze_agent, 1)
    frames = list(video._maze_frames(traces[0], maze_agent.layout, maze))
    assert frames[0].dtype == np.uint8 and frames[0].shape[-1] == 3
    assert not np.array_equal(frames[0], frames[-1])
    # Walls stay: the corner of the picture of the maze never changes.
    height = frames[0].shape[0]
    assert all(
        np.array_equal(frame[height // 2, :8], frames[0][height // 2, :8]) for frame in frames
    )


def test_other_environments_are_recorded_as_they_render(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    video.check_rendering(Painted)
    for _ in range(2):  # the second time over the first
        paths = video.rendered_video(tmp_path / "new", Still(), Painted, episodes=2, seed=0)
    assert [path.name for path in paths] == ["video-episode-0.mp4", "video-episode-1.mp4"]
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    for path in paths:  # a frame of the reset and one of every step, at the environment's rate
        assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (6, 0.6)


def test_a_machine_without_opengl_says_so_in_one_line():
    pytest.importorskip("imageio_ffmpeg")

    class Blind(Painted):
        def render(self):
            raise RuntimeError("an OpenGL platform library has not been loaded\nlong story")

    with pytest.raises(DiffplanError, match=r"has not been loaded.*MUJOCO_GL") as caught:
        video.check_rendering(Blind)
    assert "\n" not in str(caught.value)


def test_a_missing_encoder_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(DiffplanError, match=r"diffplan\[video\]"):
        video.check_rendering(Painted)
