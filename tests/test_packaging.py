"""The repository as a package: what is installed under which name, what it needs, what it pins."""

import ast
import email
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import diffplan
from diffplan.envs.makers.catalogue import LOCOMOTION_TASKS

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("agents", "envs", "scripts")  # at the top of the repository, installed inside diffplan
CHECKOUT_ONLY = ("diffplan.scripts.checks",)  # with what is inside: it serves this repository alone
ENVIRONMENT_LIBRARIES = (
    "gymnasium",
    "gymnasium_robotics",
    "h5py",
    "metaworld",
    "minari",
    "mujoco",
)

# Needed, though no module of ours imports them.
INDIRECT = {
    "pillow": "Minari's storage imports it without declaring it",
    "tensorboard": "torch.utils.tensorboard writes through it",
}

checkout_only = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="reads the files of a checkout"
)


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def run_python(code: str, cwd: Path) -> str:
    """Run `code` from `cwd`, with neither that folder nor PYTHONPATH on the import path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(
        command, check=False, cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def package_folders() -> dict[str, Path]:
    """Every package on disk that is installed, by the name that it must install under."""
    found = {}
    for top, name in [("diffplan", "diffplan"), *((room, f"diffplan.{room}") for room in ROOMS)]:
        for folder, subfolders, _ in os.walk(ROOT / top):  # does not follow the links
            subfolders[:] = [sub for sub in subfolders if sub != "__pycache__"]
            inside = Path(folder).relative_to(ROOT / top)
            found[".".join((name, *inside.parts))] = Path(folder)
    assert set(CHECKOUT_ONLY) <= set(found)
    return {
        name: folder
        for name, folder in found.items()
        if not any(f"{name}.".startswith(f"{each}.") for each in CHECKOUT_ONLY)
    }


def sources() -> dict[str, Path]:
    """Every module on disk, by the path that it must have in the wheel."""
    return {
        f"{name.replace('.', '/')}/{file.name}": file
        for name, folder in package_folders().items()
        for file in folder.glob("*.py")
    }


# ---------------------------------------------------------------- names and folders


@checkout_only
def test_the_packages_list_names_the_folders_on_disk(pyproject):
    setuptools = pyproject["tool"]["setuptools"]
    folders = {name: path.relative_to(ROOT) for name, path in package_folders().items()}
    assert sorted(setuptools["packages"]) == sorted(folders)
    assert {name: Path(path) for name, path in setuptools["package-dir"].items()} == folders


@checkout_only
def test_every_package_folder_has_an_init():
    folders = package_folders().values()
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


@checkout_only
def test_the_folders_of_tests_are_rooms():
    here = Path(__file__).parent
    names = (*package_folders(), *CHECKOUT_ONLY)
    rooms = {name.removeprefix("diffplan.").replace(".", "/") for name in names}
    folders = {file.parent.relative_to(here).as_posix() for file in here.rglob("test_*.py")}
    assert folders - {"."} <= rooms


@checkout_only
@pytest.mark.parametrize("room", ROOMS)
def test_the_links_show_the_rooms_under_their_installed_names(room):
    link = ROOT / "diffplan" / room
    assert link.is_symlink()
    assert os.readlink(link) == f"../{room}"
    assert link.resolve() == ROOT / room


def test_the_rooms_install_under_diffplan_only(tmp_path):
    code = f"""
import importlib.metadata
import importlib.util
from pathlib import Path
import diffplan
from diffplan.envs.makers.catalogue import LOCOMOTION_TASKS
ours = Path(diffplan.__file__).resolve().parent.parent
installed = importlib.metadata.files("diffplan")
for room in {ROOMS}:
    assert importlib.util.find_spec(f"diffplan.{{room}}"), f"diffplan.{{room}} is missing"
    assert not [file for file in installed if file.parts[0] == room]
    # another library may own the bare name, the checkout may not
    spec = importlib.util.find_spec(room)
    found = [] if spec is None else [Path(place) for place in spec.submodule_search_locations]
    if "site-packages" not in ours.parts:
        assert ours not in [place.resolve().parent for place in found], f"bare {{room}}: {{found}}"
"""
    run_python(code, cwd=tmp_path)


# ---------------------------------------------------------------- wheel and sdist


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """An sdist of the checkout and the wheel built from that sdist, where the links are gone."""
    work = tmp_path_factory.mktemp("build")
    tree = work / "tree"
    tree.mkdir()
    for name in ("diffplan", *ROOMS):
        shutil.copytree(
            ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    build = "import setuptools.build_meta as b; b.build_{}({!r})"
    run_python(build.format("sdist", str(work)), cwd=tree)
    (sdist,) = work.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(work / "unpacked", filter="data")
    (unpacked,) = (work / "unpacked").iterdir()
    run_python(build.format("wheel", str(work)), cwd=unpacked)
    (wheel,) = work.glob("*.whl")
    return sdist, wheel


@checkout_only
def test_the_wheel_holds_every_module_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    walkers = [f"{task}-{n}" for task, known in LOCOMOTION_TASKS.items() for n in known.actors]
    actors = {f"diffplan/envs/makers/{name}.npz" for name in ("ant-direction", *walkers)}
    assert names == {*sources(), "diffplan/py.typed", *actors}


@checkout_only
def test_the_wheel_says_what_it_is(built, pyproject):
    with zipfile.ZipFile(built[1]) as archive:
        (metadata_file,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(metadata_file))
        entry_points = archive.read(metadata_file.replace("METADATA", "entry_points.txt")).decode()
        licences = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    assert metadata["Version"] == diffplan.__version__
    assert metadata["License-Expression"] == "MIT"
    assert SpecifierSet(metadata["Requires-Python"]) == SpecifierSet(
        pyproject["project"]["requires-python"]
    )
    assert "diffplan = diffplan.scripts.cli:main" in entry_points
    assert len(licences) == 1
    # where the README is read alone its links still lead somewhere
    links = re.findall(r"\]\(([^)]+)\)", metadata.get_payload())
    assert len(links) > 10 and all(link.startswith("https://") for link in links)


# ---------------------------------------------------------------- versions and dependencies


def test_the_installed_version_is_the_one_in_the_source():
    assert importlib.metadata.version("diffplan") == diffplan.__version__


def requirements(pyproject: dict) -> list[Requirement]:
    """Of the package and of all its extras, but for extras that name another one."""
    extras = pyproject["project"]["optional-dependencies"]
    texts = [*pyproject["project"]["dependencies"], *(text for e in extras.values() for text in e)]
    return [found for found in map(Requirement, texts) if found.name != "diffplan"]


def pins() -> dict[str, str]:
    """Version by canonical name, from constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = {}
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line)
        assert match, f"constraints.txt holds {line!r}: expected NAME==VERSION and no more"
        name = canonicalize_name(match[1])
        assert name not in found, f"constraints.txt pins {name} twice"
        found[name] = match[2]
    return found


@checkout_only
def test_every_requirement_is_pinned_to_a_version_that_it_allows(pyproject):
    versions = pins()
    for requirement in requirements(pyproject):
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is required but not pinned in constraints.txt"
        assert requirement.specifier.contains(versions[name]), f"{requirement}: {versions[name]}"


@checkout_only
def test_everything_that_the_requirements_pull_in_is_pinned(pyproject):
    versions = pins()
    seen: set[tuple[str, str]] = set()
    queue = [(req, "") for req in requirements(pyproject)]
    while queue:
        requirement, extra = queue.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        # The CUDA packages of a PyTorch wheel are pinned by the wheel.
        if name in ("torch", "setuptools"):
            continue
        assert name in versions, f"{requirement} is pulled in but not pinned in constraints.txt"
        for wanted in {"", *requirement.extras} - {e for n, e in seen if n == name}:
            seen.add((name, wanted))
            needs = importlib.metadata.requires(name) or []
            queue += [(Requirement(text), wanted) for text in needs]


def third_party_imports() -> Iterator[tuple[str, Path]]:
    for path in sources().values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""] if node.level == 0 else []
            else:
                continue
            for name in (name.partition(".")[0] for name in names):
                if name != "diffplan" and name not in sys.stdlib_module_names:
                    yield name, path


@checkout_only
def test_every_import_is_declared_and_every_dependency_is_used(pyproject):
    extras = pyproject["project"]["optional-dependencies"]
    core = {canonicalize_name(Requirement(t).name) for t in pyproject["project"]["dependencies"]}
    optional = {
        canonicalize_name(Requirement(text).name)
        for extra, texts in extras.items()
        for text in texts
        if extra != "dev"
    }
    distributions = importlib.metadata.packages_distributions()
    used = set()
    for module, path in third_party_imports():
        if module == "triton":  # comes with PyTorch for CUDA, which alone needs it
            continue
        providers = {canonicalize_name(name) for name in distributions.get(module, [])}
        declared = providers & (core | optional)
        assert declared, f"{path} imports {module}, which pyproject.toml does not declare"
        used |= declared
    assert core - used - set(INDIRECT) == set(), "declared in pyproject.toml but never imported"


def test_importing_diffplan_loads_no_environment_library(tmp_path):
    code = f"""
import sys, diffplan
loaded = sorted(set({ENVIRONMENT_LIBRARIES}) & set(sys.modules))
assert not loaded, f"import diffplan loads {{loaded}}"
"""
    run_python(code, cwd=tmp_path)


@checkout_only
def test_the_import_contract_bans_the_same_libraries(pyproject):
    contracts = pyproject["tool"]["importlinter"]["contracts"]
    (forbidden,) = (c["forbidden_modules"] for c in contracts if c["type"] == "forbidden")
    assert sorted(forbidden) == sorted(ENVIRONMENT_LIBRARIES)
