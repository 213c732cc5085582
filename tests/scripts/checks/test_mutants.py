"""One-line mistakes: which there are, where they stand, and which tests should notice them."""

import ast
from pathlib import Path

import pytest

mutants = pytest.importorskip("diffplan.scripts.checks.mutants", reason="of a checkout")

CODE = """
def far(a: int | None, b: float = 0.5) -> bool:
    if a is None:
        raise ValueError(f"{1 + 2}")
    return not max(a, b).detach() < 3
"""


def test_every_line_that_computes_is_changed_and_no_message_or_annotation() -> None:
    found = mutants.mutants_of(Path("far.py"), ast.parse(CODE))
    assert [(m.line, m.text) for m in found] == [
        (2, "1.0"),
        (3, "(a is not None)"),
        (5, "(max(a, b).detach() < 3)"),  # without the not
        (5, "(max(a, b).detach() <= 3)"),
        (5, "(max(a, b))"),  # without the detach
        (5, "(min(a, b))"),
        (5, "(max(b, a))"),
        (5, "4"),
    ]


def test_a_mutant_changes_its_columns_alone(tmp_path: Path) -> None:
    (tmp_path / "far.py").write_text(CODE)
    (mutant,) = (m for m in mutants.mutants_of(Path("far.py"), ast.parse(CODE)) if m.text == "4")
    assert mutant.apply(tmp_path) == "return not max(a, b).detach() < 4"
    assert (tmp_path / "far.py").read_text() == CODE.replace("< 3", "< 4")


def test_tests_that_mirror_a_file_come_first() -> None:
    root = Path(__file__).parents[3]
    found = mutants.tests_of(root, Path("diffplan/data/windows.py"))
    assert found[0] == "tests/data/test_windows.py"
    assert "tests/data/test_ends.py" in found and "tests/training/test_losses.py" in found
    assert len(set(found)) == len(found)
