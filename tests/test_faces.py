"""What packages hand on: all of it is there, and asking for little imports little."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import diffplan

ROOT = Path(__file__).resolve().parents[1]
FACES = [
    "diffplan",
    *(
        f"diffplan.{room}"
        for room in (
            *("agents", "config", "data", "diffusion", "engines", "envs", "envs.formats"),
            *("envs.makers", "envs.rollouts", "envs.simulators", "model", "nn"),
            *("planning", "training"),
        )
    ),
]
HEAVY = (
    *("accelerate", "gymnasium", "h5py", "matplotlib", "minari", "mujoco", "onnxruntime"),
    *("safetensors", "torch"),
)
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def run(code: str) -> str:
    """What Python prints that imports this diffplan and no other."""
    root = str(Path(diffplan.__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", FACES)
def test_a_face_has_all_that_it_names(name: str) -> None:
    face = import_module(name)
    assert face.__all__
    for public in face.__all__:
        getattr(face, public)
    assert {*face.__all__} <= {*dir(face)}
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = face.no_such_name


def test_faces_with_light_modules_import_nothing_heavy() -> None:
    """Nor do the light modules, errors, or the list of what is public."""
    code = f"""
import sys
import diffplan, diffplan.config, diffplan.data, diffplan.diffusion, diffplan.envs
import diffplan.diffusion.processes, diffplan.envs.makers, diffplan.envs.formats.d4rl_catalogue
import diffplan.envs.rollouts.references, diffplan.envs.simulators, diffplan.model.run_folder
import diffplan.planning, diffplan.runtime, diffplan.training.run
dir(diffplan), diffplan.DiffplanError, diffplan.get_config
print(sorted(set({HEAVY}) & set(sys.modules)))
"""
    assert run(code) == "[]"


def anchors(document: Path) -> set[str]:
    """What headings are called in links to them, as GitHub makes it of their text."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.S | re.M)
    found: set[str] = set()
    for title in re.findall(r"^#+ +(.*?) *$", text, re.M):
        name = stem = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        number = 0
        while name in found:  # the same title again gets a number
            number += 1
            name = f"{stem}-{number}"
        found.add(name)
    return found


@pytest.mark.skipif(not DOCUMENTS[0].is_file(), reason="reads the files of a checkout")
@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_links_in_the_documents_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):  # of the web
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def imports(document: Path) -> list[str]:
    """The import lines of a page's code blocks, once each."""
    blocks = re.findall(r"```python\n(.*?)```", document.read_text(), re.S)
    statement = r"^(?:import \S.*|from \S+ import (?:\([^)]*\)|.*))$"
    found = [line for block in blocks for line in re.findall(statement, block, re.M)]
    return list(dict.fromkeys(line for line in found if "diffplan" in line))


@pytest.mark.skipif(not DOCUMENTS[0].is_file(), reason="reads the files of a checkout")
def test_the_imports_in_the_documents_work() -> None:
    lines = list(dict.fromkeys(line for page in DOCUMENTS for line in imports(page)))
    assert lines
    exec("\n".join(lines), {})
    # modules that are spoken of in the text
    for page in DOCUMENTS:
        for dotted in re.findall(r"`(diffplan(?:\.\w+)+)`", page.read_text()):
            found = import_module("diffplan")
            for depth, part in enumerate(parts := dotted.split("."), 1):
                if depth > 1 and not hasattr(found, part):
                    found = import_module(".".join(parts[:depth]))
                elif depth > 1:
                    found = getattr(found, part)
