"""The files that tell people and services about the project say what the project is."""

import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

import diffplan

ROOT = Path(__file__).resolve().parents[1]
PLACE = "https://github.com/diffplan/diffplan"

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="reads the files of a checkout"
)


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.citation-file-format", "CITATION.cff"),
        ("vendor.github-workflows", ".github/workflows/ci.yml"),
    ],
)
def test_files_that_services_read_keep_to_their_schemas(schema: str, file: str) -> None:
    checker = pytest.importorskip("check_jsonschema")
    assert checker.main(["--builtin-schema", schema, str(ROOT / file)], standalone_mode=False) == 0


def test_the_citation_is_of_this_version() -> None:
    found = read("CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (found["version"], found["license"]) == (diffplan.__version__, project["license"])
    assert found["repository-code"] == PLACE == project["urls"]["Homepage"]


def test_the_changelog_has_this_version_and_a_date() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[([^]]+)\](?: - (\S+))?$", text, re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    assert versions[1][0] == diffplan.__version__ and date.fromisoformat(versions[1][1])
    links = dict(re.findall(r"^\[([^]]+)\]: (\S+)$", text, re.MULTILINE))
    assert links.keys() == {name for name, _ in versions}
    assert all(link.startswith(f"{PLACE}/") for link in links.values())
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds


def test_hosted_checks_run_ours_on_every_python_that_is_supported() -> None:
    (job,) = read(".github/workflows/ci.yml")["jobs"].values()
    pythons = job["strategy"]["matrix"]["python"]
    text = (ROOT / "pyproject.toml").read_text()
    assert pythons == re.findall(r"Programming Language :: Python :: (3\.\d+)", text)
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert (ROOT / ".ci/run").is_file() and "bash .ci/run" in commands


def test_forms_for_issues_have_a_name_and_a_purpose() -> None:
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.md"))
    assert [form.stem for form in forms] == ["bug", "question"]
    for form in forms:
        _, head, body = form.read_text().split("---\n", 2)
        assert yaml.safe_load(head).keys() == {"name", "about", "labels"} and body.strip()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_pages_at_the_top_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
        assert (ROOT / link).exists(), link
