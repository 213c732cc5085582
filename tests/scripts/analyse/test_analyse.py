"""`diffplan analyse`: what it concludes from figures, the page of a run, what it refuses."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.agents import PlannerAgent, load_agent
from diffplan.data.episodes import Episodes
from diffplan.data.windows import WindowSampler
from diffplan.errors import DiffplanError
from diffplan.model.planner_model import PlannerModel
from diffplan.scripts.analyse.conclusions import Findings, conclusions
from diffplan.scripts.analyse.denoiser import Errors, Inside, Known
from diffplan.scripts.analyse.plans import Decides, Diversity, Steps
from diffplan.scripts.analyse.subject import Sample, Subject
from diffplan.scripts.analyse.what_if import draw_what_if, what_if
from diffplan.scripts.cli import main
from diffplan.scripts.report.intervals import Estimate


def near(value: float, off: float = 0.01) -> Estimate:
    return Estimate(value, value - off, value + off, 100)


def parts(lost: float) -> dict[str, Estimate]:
    names = ("unique", "redundant", "synergistic", "alone", "lost")
    return dict(zip(names, map(near, (lost, 1 - lost, 0.0, 1.0, lost)), strict=True))


FOUND = Findings(
    Decides({"goal": near(0.02), "proposal": near(0.9), "noise": near(0.01)}, {"goal": near(0.95)}),
    Steps(
        (9, 6, 3, 0),
        {1: near(0.2), 2: near(0.02), 3: near(0, 0)},
        {n: near(0.5, 0.1) for n in (1, 2, 3)},
    ),
    Known((3, 2), near(9), near(1), {"goal": parts(0.02), "proposal": parts(0.6)}, {}),
    Errors(*[[near(1), near(1), near(1)]] * 3, [near(0.5), near(0.8), near(3)]),  # type: ignore[arg-type]
    Inside(
        [near(9), near(4), near(5)],
        [near(0, 0), near(0.5), near(0.9)],
        16,
        *[[near(1)] * 3] * 3,  # type: ignore[arg-type]
        near(1.1),
    ),
    Diversity(near(5), near(5), near(0.2), 32),
)
SUBJECT: Any = SimpleNamespace(levels=(3, 2, 1), settings=SimpleNamespace(start="sdedit"))


def test_conclusions_follow_from_figures() -> None:
    text = "\n".join(conclusions(SUBJECT, FOUND))
    for line in (
        r"^proposal decides 90 % \[89, 91\] of the plan, goal 2 % .*: a better proposer is worth",
        r"^goal decides 95 % .*, but by way of the proposal: in the denoiser alone 2 %",
        r"^2 of 3 steps .*2 % \[1, 3\] off .*--denoising-steps 2 --start-level 9$",
        r"^all conditions together tell 9.0 .* bits of a plan, down to the noise of level 2$",
        r"^goal alone tells 100 % .* without it 2 % \[1, 3\] is lost",
        r"^proposal: 60 % \[59, 61\] of it no other tells",
        r"^at level 1 of 3 a linear planner is better, at level 1 by a factor of 3.0",
        # the far end, where x_t is ignored, has no say
        r"^the denoiser moves in at most 5 \[5, 5\] of 16 directions, at level 1: .*stride",
        r"^32 candidates are 1.1 .*: --candidates above 1 cost time",
        r"features tell 1.00 .*: width is not what is missing$",
    ):
        assert re.search(line, text, re.M), line


def change(**fields: Any) -> str:
    return "\n".join(conclusions(SUBJECT, dataclasses.replace(FOUND, **fields)))


def test_other_figures_give_other_conclusions() -> None:
    wide = {"proposal": Estimate(0.9, 0.5, 1.0, 9), "goal": near(0.3), "noise": near(0.01)}
    text = change(decides=Decides(wide, {"goal": near(0.5)}))
    assert "better proposer" not in text and "by way of" not in text  # the interval is too wide
    idle = Decides({"target_return": near(0.01), "noise": near(0.9)}, {"target_return": near(0.01)})
    assert re.search(
        r"noise decides 90 .*--noise-scale(.|\n)*do not tune the target", change(decides=idle)
    )
    steps = Steps((3, 2, 0), {1: near(0.3), 2: near(0, 0)}, {1: near(0.1), 2: near(0.5)})
    text = change(steps=steps)
    assert "no step is idle" in text and "plans of 1 steps are nearer to the data" in text
    assert "--denoising-steps" not in change(steps=None)
    assert "bits of a plan" not in change(known=None)
    unsure = dataclasses.replace(FOUND.known, by_errors=near(0.3))  # type: ignore[type-var]
    text = change(known=unsure)
    assert "errors fall by 30 % [29, 31] of what answers with and without goal and" in text
    assert "no other tells" not in text
    little = dataclasses.replace(FOUND.known, bits=near(0.02))  # type: ignore[type-var]
    text = change(known=little)
    assert (
        "under 0.1 bits of a plan are told by goal and proposal down to level 2" in text
        and "no other" not in text
    )
    worse = dataclasses.replace(FOUND.errors, ratio=[near(2)] * 3)
    assert "at every level a linear planner is better: train longer" in change(errors=worse)
    equal = dataclasses.replace(FOUND.errors, ratio=[near(0.99)] * 3)
    assert "a smaller network will do" in change(errors=equal)
    better = dataclasses.replace(FOUND.errors, ratio=[near(0.3), near(0.5), near(0.99)])
    assert re.search(r"down to 30 % .*level 3 of 3; at level 1 a linear one", change(errors=better))
    deaf = dataclasses.replace(FOUND.inside, gain=[near(0, 0)] * 3, of_plan=[near(0.3)] * 3)
    text = change(inside=deaf)
    assert "ignores x_t at every level" in text and "a wider network may keep more" in text
    many = Diversity(near(5), near(4), near(3), 32)
    text = change(diversity=many)
    assert "32 candidates are 8.0 [7.9, 8.1] different plans\n" in text
    assert "plans are of fewer kinds than the data's" in text


# --- A run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, tiny_goal_episodes: Episodes, tiny_options: list[str]
) -> Path:
    folder = tmp_path_factory.mktemp("analyse")
    tiny_goal_episodes.save(folder / "data")
    words = ["train", "trajectory-diffuser", "--dataset", str(folder / "data"), "--steps", "4"]
    words += ["--out", str(folder / "run"), "--device", "cpu", "--preset", "none", *tiny_options]
    assert main(words) == 0
    return folder / "run"


def test_the_page_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", str(run), "--windows", "64"]) == 0
    out = capsys.readouterr().out
    found = json.loads((run / "analysis.json").read_text())
    assert all(f"- {line}" in out for line in found["conclusions"]) and found["conclusions"]
    assert set(found["decides"]["denoiser"]) == {"goal", "proposal", "noise"}
    assert set(found["known"]["parts"]) == {"goal", "proposal"}
    assert len(found["errors"]["network"]) == len(found["inside"]["rank"]) == len(found["levels"])
    page = (run / "analysis.md").read_text()
    assert "(pictures/analysis.png)" in page and found["command"] in page
    for name in ("analysis", "what-if"):
        assert f"(pictures/{name}.png)" in page and f"{name}.png" in out
        assert (run / "pictures" / f"{name}.png").stat().st_size > 10_000


def test_what_if_asks_of_a_window_what_the_agent_knows(
    models: Callable[..., PlannerModel],
    tiny_goal_episodes: Episodes,
    tiny_episodes: Episodes,
    tmp_path: Path,
) -> None:
    for episodes, rewards in ((tiny_goal_episodes, False), (tiny_episodes, True)):
        model = models(rewards=rewards)
        agent = PlannerAgent(model, episodes.layout, episodes.info, config_name="x", engine="eager")
        sampler = WindowSampler(episodes, model.config, seed=0)
        found = what_if(agent, sampler, 0)
        assert found.done.shape == (agent.horizon + 1, episodes.layout.state_dim)
        assert found.asked.shape == found.anew.shape == (len(found.told), *found.done.shape)
        assert np.abs(found.asked - found.done)[:, 0].max() < 1e-6  # from where it began
        assert np.abs(found.asked - found.done)[:, 1:].max() > 1e-3
        assert (np.abs(found.moved - found.done)[:, 0] > 1e-3).any(1).all()
        assert (found.goals is None) == rewards and ("return-to-go" in found.told[0]) == rewards
        draw_what_if(tmp_path / f"{rewards}.png", agent, found, "title")
        assert (tmp_path / f"{rewards}.png").stat().st_size > 10_000
    model = models("diffuser")
    agent = PlannerAgent(
        *(model, tiny_goal_episodes.layout, tiny_goal_episodes.info),
        **{"config_name": "x", "engine": "eager"},
    )
    with pytest.raises(DiffplanError, match="plans of whole states alone"):
        what_if(agent, WindowSampler(tiny_goal_episodes, model.config, seed=0), 0)


def test_leaving_conditions_out_is_what_training_left_out(run: Path) -> None:
    subject = Subject(load_agent(run, engine="eager"))
    model, shape = subject.model, (6, subject.model.rows, subject.model.plan_dim)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    agent = subject.agent
    states, goals = normal(6, 4).numpy(), normal(6, 2).numpy()
    context = model.normalised_context(agent.context_at(states, goals))
    sample = Sample(normal(*shape), context, normal(*shape), normal(*shape))
    other = dataclasses.replace(context, goal=context.given("goal") + 1)
    swapped = dataclasses.replace(sample, context=other)
    with torch.no_grad():
        # untrained networks say nothing at all
        torch.nn.init.normal_(subject.denoiser.network.output.__self__.leave.weight)  # type: ignore[attr-defined]
        for kept in (frozenset[str](), frozenset({"proposal"})):
            pairs = zip(subject.answers(sample, kept), subject.answers(swapped, kept), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
        moved = dataclasses.replace(sample, proposal=sample.proposal + 1)  # type: ignore[operator]
        kept = frozenset({"goal"})
        pairs = zip(subject.answers(sample, kept), subject.answers(moved, kept), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert not torch.equal(subject.answers(sample, kept)[0], subject.answers(swapped, kept)[0])
    # the far end of one is answered by the far end of the other
    assert subject._between(1e9) == (20, 20, 0.0)
    low, high, share = subject._between(subject.plain.sigma[5] / subject.plain.a[5])
    assert (low, high) == (4, 5) and share == pytest.approx(1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--windows", "3"], "--windows must be at least 64, got 3"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--checkpoint", "9"], "checkpoint-00000009"),
    ],
)
def test_mistakes_get_one_line(
    words: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyse", str(run), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_run_without_a_denoiser_is_refused() -> None:
    for streams, kind in ((None, "proposer-only"), (object(), "streams")):
        model = SimpleNamespace(denoiser=None, streams=streams)
        agent: Any = SimpleNamespace(model=model, config_name="x")
        with pytest.raises(DiffplanError, match=f"expected another config than {kind}"):
            Subject(agent)
