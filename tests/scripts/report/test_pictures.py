"""Pictures: what is drawn where, and metrics files as training leaves them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from diffplan.data.info import ObservationLayout
from diffplan.engines.decision import Plan
from diffplan.envs.rollouts.traces import Trace
from diffplan.envs.simulators.mazes import Maze
from diffplan.errors import DiffplanError
from diffplan.scripts.report import pictures
from diffplan.scripts.report.intervals import estimate_mean

MAZE = Maze.from_map([[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1]])
# The position is in columns 2 and 1, so that a picture of columns 0 and 1 would be noticed.
LAYOUT = ObservationLayout(3, 2, (2, 1), (), ("observation",))


@pytest.fixture
def drawn(monkeypatch):
    """Catches figures instead of writing them."""
    figures = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: figures.append(figure))
    return figures


def plan(rng, candidates=3):
    states = rng.normal(size=(candidates, 5, 3))
    chosen = min(1, candidates - 1)
    return Plan(
        states[chosen],
        np.zeros(2),
        proposal=states + 0.1,
        candidates=states,
        values=np.zeros(candidates),
        chosen=chosen,
    )


def make_trace(success_step=None, steps=20):
    rng = np.random.default_rng(0)
    observations = {
        "observation": rng.normal(size=(steps + 1, 3)),
        "achieved_goal": rng.normal(size=(steps + 1, 2)),
        "desired_goal": np.tile([0.5, 0.25], (steps + 1, 1)),
    }
    plans = {step: plan(rng) for step in (0, 8, 16)}
    return Trace(
        3, 1003, observations, rng.normal(size=(steps, 2)), np.ones(steps), success_step, plans
    )


def lines(axes, color):
    return [line.get_xydata() for line in axes.get_lines() if line.get_color() == color]


def test_walls_stand_where_the_maze_has_them():
    axes = Figure().add_subplot()
    pictures.draw_maze(axes, MAZE)
    corners = {(patch.get_x(), patch.get_y()) for patch in axes.patches}
    assert len(corners) == 16 - 3
    assert (-2, 1) in corners  # cell (0, 0): top left
    assert (-1, -1) in corners  # cell (2, 1), below the free cell (1, 1)
    assert (0, -1) not in corners and (-1, 0) not in corners  # free cells (2, 2) and (1, 1)
    assert axes.get_aspect() == 1


def test_the_maze_shows_path_plans_and_goal(tmp_path, drawn):
    trace = make_trace(success_step=10)
    pictures.plans_in_maze(tmp_path / "x.png", [trace, make_trace()], LAYOUT, MAZE)
    reached, missed = drawn[0].axes[:2]
    states = trace.observations["observation"].astype(np.float32)
    (path,) = lines(reached, pictures.EXECUTED)
    np.testing.assert_allclose(path, states[:, [2, 1]])
    # The plan made at step 16, after the success, is not drawn.
    for made, line in zip(
        list(trace.plans.values())[:2], lines(reached, pictures.PLAN), strict=True
    ):
        np.testing.assert_allclose(line, made.states[:, [2, 1]])
    (goal,) = lines(reached, pictures.GOAL)
    np.testing.assert_allclose(goal, [[0.5, 0.25]])
    assert "reached at step 10" in reached.get_title()
    assert "not reached in 20 steps" in missed.get_title()
    assert len(lines(missed, pictures.PLAN)) == 3
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert len(labels) == len(set(labels)) == 6


def test_subgoals_are_marked_in_their_episode_alone(tmp_path, drawn):
    points = np.array([[0.5, 0.25], [-1.0, 0.5]])
    aims = [points, np.zeros((0, 2))]
    pictures.plans_in_maze(tmp_path / "x.png", [make_trace(), make_trace()], LAYOUT, MAZE, aims)
    aimed, straight = drawn[0].axes[:2]
    (marks,) = lines(aimed, pictures.AIM)
    np.testing.assert_allclose(marks, points)
    assert not len(np.concatenate([np.zeros((0, 2)), *lines(straight, pictures.AIM)]))
    assert "subgoal of a plan" in [text.get_text() for text in drawn[0].legends[0].get_texts()]


def test_the_plan_that_optimisation_moved_most_is_shown_from_close_by(tmp_path, drawn):
    first, second, third = make_trace().plans.values()
    moved = second.proposal.copy()
    moved[second.chosen, 3, 1] += 2.5  # a position: LAYOUT has it in columns 2 and 1
    velocity = third.proposal.copy()
    velocity[third.chosen, 3, 0] += 9.0
    plans = {0: first, 8: second._replace(proposal=moved), 16: third._replace(proposal=velocity)}
    pictures.plans_in_maze(tmp_path / "x.png", [replace(make_trace(), plans=plans)], LAYOUT, MAZE)
    whole, near = drawn[0].axes
    (proposal,) = lines(near, pictures.PROPOSAL)
    np.testing.assert_allclose(proposal, moved[1][:, [2, 1]])
    (followed,) = lines(near, pictures.PLAN)
    np.testing.assert_allclose(followed, second.states[:, [2, 1]])
    assert len(lines(near, pictures.CANDIDATE)) == 3
    assert "step 8" in near.get_title()
    frame = whole.patches[-1]
    left, bottom, width = frame.get_x(), frame.get_y(), frame.get_width()
    np.testing.assert_allclose(near.get_xlim(), (left, left + width))
    for points in (proposal, followed):
        assert (points > (left, bottom)).all() and (points < (left + width, bottom + width)).all()


def test_without_plans_or_other_candidates_the_picture_still_works(tmp_path, drawn):
    rng = np.random.default_rng(0)
    lone = replace(make_trace(), plans={0: plan(rng, candidates=1)})
    none = replace(make_trace(), plans={})
    pictures.plans_in_maze(tmp_path / "x.png", [lone, none], LAYOUT, MAZE)
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert "other candidates" not in labels
    assert lines(drawn[0].axes[2], pictures.CANDIDATE) == []
    assert not drawn[0].axes[3].axison


def test_plans_over_time_lie_a_stride_apart(tmp_path, drawn):
    trace = make_trace()
    pictures.plans_over_time(tmp_path / "x.png", [trace], LAYOUT, stride=2)
    assert len(drawn[0].axes) == 4  # three state columns, one panel empty
    assert "goal not reached in 20 steps" in drawn[0].get_suptitle()
    # the goal's columns come first, with the goal
    for column, axes, goal in zip((2, 1, 0), drawn[0].axes, (0.5, 0.25, None), strict=False):
        assert [list(xy[:, 1]) for xy in lines(axes, pictures.GOAL)] == (
            [[goal] * 2] if goal else []
        )
        planned = [xy for xy in lines(axes, pictures.PLAN) if len(xy) > 1]
        for (step, made), xy in zip(trace.plans.items(), planned, strict=True):
            np.testing.assert_allclose(xy[:, 0], step + 2 * np.arange(5))
            np.testing.assert_allclose(xy[:, 1], made.states[:, column])


def test_errands_show_how_far_things_are_and_which_is_moved(tmp_path, drawn):
    trace, rng = make_trace(success_step=12), np.random.default_rng(1)
    far, now = rng.random((2, 21, 2)), np.repeat([0, 1], (8, 13))
    names = ["goal 0", "goal 1 2"]
    pictures.errands_over_time(tmp_path / "x.png", [trace] * 2, far, [now, 1 - now], names)
    axes = drawn[0].axes
    assert [each.get_ylabel() for each in axes] == ["goal 0", "", "goal 1 2", ""]
    assert axes[1].get_title() == "seed 1003, goal reached at step 12"
    for place, panel in enumerate(axes):
        thing, episode = divmod(place, 2)
        (line,) = lines(panel, pictures.EXECUTED)
        np.testing.assert_array_equal(line[:, 1], far[episode][:, thing])
        first, last = (0, 8) if thing == episode else (8, 20)
        assert [(span.get_x(), span.get_width()) for span in panel.patches] == [
            (first, last - first)
        ]


def test_returns_show_every_episode_and_the_interval(tmp_path, drawn):
    values = np.array([1.0, 5.0, 9.0, 3.0])
    pictures.returns_picture(tmp_path / "x.png", {"a": values, "b": np.array([2.0])})
    axes = drawn[0].axes[0]
    dots = [xy[:, 0] for xy in lines(axes, pictures.EXECUTED)]
    np.testing.assert_array_equal(dots[0], values)
    interval = lines(axes, pictures.START)[0][:, 0]
    expected = estimate_mean(values)
    np.testing.assert_allclose(interval, [expected.low, expected.high])
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "a\nmean 4.5",
        "b\nmean 2.0",
    ]


def test_metrics_with_a_torn_line_and_a_resumed_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    records = [
        {"step": 1, "seconds": 0.1, "loss/a": 3.0},
        {"step": 2, "seconds": 0.2, "loss/a": 2.0, "error/b": 1.0},
        {"step": 2, "seconds": 0.2, "loss/a": 1.5},
        {"step": 3, "seconds": 0.3, "loss/a": 1.0},
    ]
    path.write_text("\n".join(map(json.dumps, records)) + '\n{"step": 4, "loss/a": 0.')
    curves = pictures.read_metrics(path)
    assert set(curves) == {"loss/a", "error/b"}
    np.testing.assert_array_equal(curves["loss/a"][0], [1, 2, 3])
    np.testing.assert_array_equal(curves["loss/a"][1], [3.0, 1.5, 1.0])


def test_training_curves_are_logarithmic_only_where_that_is_possible(tmp_path, drawn):
    steps = np.arange(1, 200)
    curves = {
        "loss/wide": (steps, np.exp(-steps / 30)),
        "loss/negative": (steps, np.exp(-steps / 30) - 0.5),
        "error/flat": (steps, np.full(199, 2.0)),
    }
    pictures.training_curves(tmp_path / "x.png", curves)
    scales = {axes.get_title(): axes.get_yscale() for axes in drawn[0].axes}
    assert scales == {"loss: negative": "linear", "loss: wide": "log", "error: flat": "linear"}
    smooth = drawn[0].axes[0].get_lines()[1].get_ydata()
    np.testing.assert_allclose(smooth[100], curves["loss/negative"][1][98:103].mean())
    # The first losses, which would flatten the rest, run out at the top.
    late = curves["loss/negative"][1][len(steps) // 10 :]
    assert drawn[0].axes[0].get_ylim()[1] < late.max() + np.ptp(late)
    assert curves["loss/wide"][1].max() < drawn[0].axes[1].get_ylim()[1]


def test_pictures_are_png_and_pdf_files_with_all_of_their_text(tmp_path):
    path = tmp_path / "new" / "plans.png"
    pictures.plans_in_maze(path, [make_trace()], LAYOUT, MAZE)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert {entry.name for entry in path.parent.iterdir()} == {"plans.png", "plans.pdf"}
    with pytest.raises(DiffplanError, match=r"picture .*x\.jpq: name it \.png, \.svg or"):
        pictures.save(Figure(), tmp_path / "x.jpq")


def test_what_stands_beyond_the_edge_is_saved_as_well(tmp_path):
    widths = []
    for text in ("", "far beyond the edge of the picture" * 3):
        with pictures.style():
            figure = Figure(figsize=(2, 1))
            figure.text(0.9, 0.5, text)
            pictures.save(figure, tmp_path / "x.png")
        widths.append(int.from_bytes((tmp_path / "x.png").read_bytes()[16:20], "big"))
    assert widths[1] > 2 * widths[0]
