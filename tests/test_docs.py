"""The documentation runs: its Python and its commands at tiny sizes, page by page.

A page's blocks run in order, in one namespace and one folder, as a reader would go through them.
A block below `<!-- not run: why -->` is compiled, and its commands are read by their own parsers.
"""

import ast
import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import yaml

import diffplan
from diffplan.engines import table
from diffplan.scripts import cli
from diffplan.scripts.evaluate import measure
from diffplan.scripts.train.settings import read_values

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])
pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="only a checkout has docs/")

# Pages whose commands are those of tables that took hours.
MEASURED = ("archive.md", "archive_performance.md", "gpu.md", "ogbench.md", "performance.md")
MEASURED += ("results.md", "robustness.md")
# What takes long however little is asked for, or the network; their own tests run it.
LONG = {"benchmark", "calibrate", "demo", "download", "family", "onnx-int8", "queries", "study"}
LONG |= {"tune"}
SIZES = {
    "plan": {"horizon": 8},
    "planning": {"replan_every": 4},
    "proposer": {"width": 16},
    "denoiser": {"width": 16},
    "heads": {"width": 16},
    "training": {"batch_size": 8},
}
TINY = {
    "train": [
        "--steps=2",
        "--track",
        *(
            f"--{part}.{key.replace('_', '-')}={value}"
            for part, settings in SIZES.items()
            for key, value in settings.items()
        ),
    ],
    "evaluate": ["--episodes=2", "--num-envs=1", "--workers=1", "--time-limit=12", "--no-pictures"],
    "export": ["--batch-sizes", "1"],
}
# What in Python goes on for long: the largest number that its calls are given.
CUT = {"range": 3, "rollout": 20, "make_pointmaze": 2000}
PROGRAMS = ["diffplan", "pip", "make", "python", "torchrun", "bash", "git"]


@dataclass(frozen=True)
class Block:
    """A block of a page: where, in which language, under which name it is a file, why not run."""

    line: int
    language: str
    text: str
    file: str | None = None
    reason: str | None = None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, and the indented ones that begin with a program's name."""
    found: list[Block] = []
    lines = page.read_text().split("\n")
    at = 0
    while at < len(lines):
        first, line = at, lines[at]
        at += 1
        if line.startswith("```"):
            while lines[at] != "```":
                at += 1
            note = lines[first - 1] if first else ""
            file = re.fullmatch(r"<!-- file: (\S+) -->", note)
            reason = re.fullmatch(r"<!-- not run: (.+) -->", note)
            found.append(
                Block(
                    first + 1,
                    line[3:],
                    "\n".join(lines[first + 1 : at]),
                    file and file[1],
                    reason and reason[1],
                )
            )
            at += 1
        elif line.startswith("    ") and not lines[first - 1] and line.split()[0] in PROGRAMS:
            while at < len(lines) and lines[at].startswith("    "):
                at += 1
            text = "\n".join(part[4:] for part in lines[first:at])
            found.append(Block(first + 1, "shell", text))
    return found


def commands(block: Block) -> list[list[str]]:
    """The words of each command of a block, without settings of the environment."""
    lines = block.text.replace("\\\n", " ").split("\n")
    every = [shlex.split(line, comments=True) for line in lines]
    for words in every:
        while words and re.match(r"[A-Z_]+=", words[0]):
            del words[0]
    return [words for words in every if words]


def parse(words: list[str]) -> None:
    """Read a command by its own parser, or see that what it asks for is there."""
    program, *rest = words
    if program == "torchrun":
        program, rest = "diffplan", rest[rest.index("diffplan.scripts.cli") + 1 :]
    if program == "diffplan":
        name, rest = cli._split(rest)
        module, kind, _ = cli.COMMANDS[name]
        command = getattr(import_module(f"diffplan.scripts.{module}"), kind)
        cli.parsed(command, rest, "diffplan")
    elif program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extras in re.findall(r"(?:\.|diffplan)\[(.*?)\]", " ".join(rest)):
            assert {*extras.split(",")} <= {*project["optional-dependencies"]}, extras
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
        assert {word for word in rest if "=" not in word} <= {*targets}, rest
    elif program == "python" and rest[0] == "-m":
        module = import_module(rest[1])
        place = Path(str(module.__file__))
        main = place.with_name("__main__.py") if place.name == "__init__.py" else place
        found = re.search(r"main\((\w+), ", main.read_text())
        assert found, main
        home = import_module(f"{rest[1]}.__main__") if main != place else module
        cli.parsed(getattr(home, found[1]), rest[2:], rest[1])
    else:
        assert program in ("python", "bash", "git"), f"unknown program {program}"


class Page:
    """A folder and a namespace in which a page's blocks are run one after the other."""

    def __init__(self, page: Path, prepared: Path) -> None:
        self.page, self.prepared = page, prepared
        self.names: dict[str, Any] = {"__name__": "docs"}

    def run(self, block: Block) -> None:
        """Run a block as its language says; text is to be read."""
        parsed = block.reason is not None or self.page.name in MEASURED
        if block.language == "python" and block.file:
            Path(block.file).write_text(block.text + "\n")
        elif block.language == "python":
            code = compile(self.cut(block.text), f"{self.page.name}:{block.line}", "exec")
            if not parsed:
                exec(code, self.names)
        elif block.language == "shell":
            for words in commands(block):
                self.bring_runs(words)
                if parsed or words[0] not in ("python", "diffplan"):
                    parse(words)
                else:
                    self.call(words)
        elif block.language == "yaml":
            read_values(yaml.safe_load(block.text), self.page.name)
        else:
            assert block.language in ("text", "{eval-rst}"), block.language

    def call(self, words: list[str]) -> None:
        """Run a command of ours at the smallest size; what takes minutes is parsed."""
        if words[0] == "python" and words[1] != "-m":
            exec(compile(self.cut(Path(words[1]).read_text()), words[1], "exec"), {})
            return
        if words[0] == "python" or LONG & {*words}:
            parse(words)
            return
        tiny = TINY.get(words[1], [])
        if words[1:3] == ["datasets", "make"]:
            tiny = ["--overwrite"]
            episodes = words[3].startswith("fetch") or words[3].endswith("-v0")  # OGBench's
            tiny += ["--episodes=2"] if episodes else ["--env-steps=2000"]
        if "--video" in words:
            tiny = [*tiny, "--no-video"]
        assert cli.main([*words[1:], *tiny]) == 0, words

    def bring_runs(self, words: list[str]) -> None:
        """Put runs there that other pages train, away the one that this command trains anew."""
        for before, word in pairwise(words):
            if not word.startswith("runs/"):
                continue
            if before == "--out":
                if words[1] == "train" and "--resume" not in words:
                    shutil.rmtree(word, ignore_errors=True)
            elif not Path(word).exists():
                shutil.copytree(self.prepared, word)

    def cut(self, text: str) -> ast.Module:
        """The code with the large numbers of CUT made small."""
        tree = ast.parse(text)
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            for each in call.args if name in CUT else []:
                if isinstance(each, ast.Constant) and isinstance(each.value, int):
                    each.value = min(each.value, CUT[name])
        return tree


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run on PointMaze-Medium, and its data in a store of these tests."""
    home = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("MINARI_DATASETS_PATH", str(home / "minari"))
        patch.setenv("D4RL_DATASET_DIR", str(home / "d4rl"))
        patch.setattr(table, "_AUTO", ("eager",))  # no graphs are exported on the way
        timed = partial(measure.time_decisions, steps=5, warmup=1)
        patch.setattr(measure, "time_decisions", timed)
        make = "datasets make pointmaze-medium --env-steps 2000"
        assert cli.main(make.split()) == 0
        train = "train trajectory-diffuser --dataset pointmaze-medium --out medium"
        assert cli.main([*train.split(), *TINY["train"]]) == 0
        yield home / "medium"


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: with runs/medium, and training that is small from Python, too."""
    shutil.copytree(prepared, tmp_path / "runs/medium")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    train = diffplan.train

    def small(*args: Any, **options: Any) -> diffplan.Run:
        sizes = {part: {**options.pop(part, {}), **values} for part, values in SIZES.items()}
        if options.get("evaluate_every"):
            options |= {"evaluate_every": 2, "evaluate_episodes": 1}
        shutil.rmtree(options["out"], ignore_errors=True)
        return train(*args, **{**options, **sizes, "steps": 2, "track": (), "progress": False})

    monkeypatch.setattr(diffplan, "train", small)
    return tmp_path


def check_own_data(out: str) -> None:
    """What the page's commands and its block for Python leave behind."""
    results = json.loads(Path("runs/tank/results-time_limit-12.json").read_text())
    assert results["env_id"] == "my_env:Tank-v0" and results["episodes"] == 2
    assert results["policies"]["data"]["episodes"] == 3  # the data's own returns
    assert results["policies"]["planner"]["lengths"] == [12] * 2
    assert results["reference"] is None and "normalised_score" not in results
    assert re.search(r"^planning: start \w+, denoising_steps \d+", out, re.M)
    assert re.search(r"^2 -\d+\.\d+\nruns/python/checkpoint-0+2 ", out, re.M)
    # written in ten lines, as the page says
    code = Path("collect.py").read_text().splitlines()
    assert len([line for line in code if line and not line.startswith("import")]) <= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(
    page: Path, prepared: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registered = {*gym.registry}
    place = Page(page, prepared)
    try:
        for block in blocks(page):
            try:
                place.run(block)
            except Exception as error:
                said = capsys.readouterr().err[-500:]
                raise AssertionError(f"{page.name}:{block.line}: {error} {said}") from error
    finally:
        for name in {*gym.registry} - registered:
            del gym.registry[name]
        sys.modules.pop("my_env", None)
    if page.name == "own_data.md":
        check_own_data(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```shell\ndiffplan train no-such --dataset x --out y\n```", "unknown config"),
        ("```shell\ndiffplan evaluate runs/medium --no-such 3\n```", "no-such"),
        ("```shell\nmake no-such\n```", "no-such"),
        ("```shell\npip install '.[no-such]'\n```", "no-such"),
        ("```shell\nrm -rf runs\n```", "unknown program"),
        ("```\nno language\n```", "page.md:1"),
        ("```yaml\nconfig: trajectory-diffuser\nno_such: 1\n```", "no_such"),
        ("```python\nno_such()\n```", "no_such"),
        ("\n    diffplan evaluat runs/medium\n", "unknown command"),
    ],
)
def test_what_is_wrong_in_a_page_is_found(
    text: str, message: str, prepared: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = folder / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError, match=message):
        test_the_blocks_of_a_page_run(page, prepared, folder, capsys)


def test_every_public_name_is_in_the_reference() -> None:
    """By what it is, whatever package it is called by there; constants by where they stand."""
    text = (ROOT / "docs/api.md").read_text()
    shown = []
    for path in re.findall(r"^\.\. auto\w+:: (\S+)$", text, re.M):
        module, _, name = path.rpartition(".")
        shown.append(getattr(import_module(module), name))
    rooms = "agents config constraints data diffusion engines envs model nn planning training"
    inside = "envs.formats envs.makers envs.rollouts envs.simulators"
    faces = ["diffplan", *(f"diffplan.{room}" for room in f"{rooms} {inside}".split())]
    for face in map(import_module, faces):
        for name in face.__all__:
            found = getattr(face, name)
            assert any(each is found for each in shown), f"{face.__name__}.{name}"


def test_claims_name_files_and_tests_that_are_there() -> None:
    text = (ROOT / "docs/claims.md").read_text()
    rows = re.findall(r"\| `(\S+)` \| `(\S+)`(?: `(\w+)`)? \|$", text, re.M)
    assert len(rows) == text.count("\n| ") - 1  # but the header
    for file, test, name in rows:
        assert (ROOT / "diffplan" / file).is_file(), file
        assert f"def {name or 'test_'}" in (ROOT / "tests" / test).read_text(), name
