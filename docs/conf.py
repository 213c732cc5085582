"""The documentation site: `make docs` builds it from the pages here, without a network."""

import inspect
import re
from typing import Any

import diffplan

project = "diffplan"
author = "diffplan contributors"
version = release = diffplan.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "README.md"]  # index.rst includes it

html_theme = "furo"
html_title = "diffplan"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False

myst_heading_anchors = 4  # links to headings as GitHub makes them of their text

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"


def _inline(text: str) -> str:
    """A docstring's text as reStructuredText: `code`, and nothing else that means anything."""
    parts = re.split(r"`+([^`]+)`+", text)
    for place, part in enumerate(parts):
        if place % 2:
            # a letter beside it would make it no code
            before = "\\ " if parts[place - 1][-1:].isalnum() else ""
            after = "\\ " if parts[place + 1][:1].isalnum() else ""
            parts[place] = f"{before}``{part}``{after}"
        else:
            parts[place] = re.sub(r"([\\*_|])", r"\\\1", part)
    joined = "".join(parts)
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"`arXiv \1 <https://arxiv.org/abs/\1>`__", joined)


def _parameters(what: str, found: Any) -> set[str]:
    """The names that a docstring may explain: of parameters, and of a dataclass's fields."""
    names = set(getattr(found, "__annotations__", {})) if what == "class" else set()
    try:
        names |= {*inspect.signature(found).parameters}
    except (TypeError, ValueError):
        return names
    if what == "class":
        names |= {*inspect.signature(found.__init__).parameters}
    return names


def _read(app: Any, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Docstrings here are prose: `name: text` becomes a list, what is indented code."""
    names = _parameters(what, found)
    result: list[str] = []
    arguments = False
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines).rstrip()):
        rows = paragraph.split("\n")
        if rows[0].strip() in ("Args:", "Returns:", "Raises:"):
            label = rows.pop(0).strip()
            arguments = label == "Args:"
            if label != "Args:":
                rows = [f"{label[:-1]} {' '.join(row.strip() for row in rows)}"]
        elif rows[0].startswith("    ") and not arguments:
            result += ["::", "", *rows, ""]
            continue
        text = " ".join(row.strip() for row in rows)
        mark = r"(?:^|(?<=[.;:] ))(?:(?P<names>\**\w+(?:, \**\w+)*): |(?=(?:Returns|Raises) ))"
        starts = [0]
        labels = [""]
        for match in re.finditer(mark, text):
            told = match["names"]
            if told and not {each.strip("* ") for each in told.split(",")} <= names:
                continue
            if match.start() == starts[-1]:
                labels[-1] = told or ""
            else:
                starts.append(match.start())
                labels.append(told or "")
        for label, first, last in zip(labels, starts, [*starts[1:], len(text)], strict=True):
            piece = text[first:last].strip()
            if label:
                named = ", ".join(f"``{each.strip()}``" for each in label.split(","))
                if result and not result[-1].startswith("*"):
                    result.append("")
                result += [f"* {named}: {_inline(piece[len(label) + 1 :].strip())}"]
            elif piece:
                result += ["", _inline(piece)]
        result.append("")
    lines[:] = result


def _skip(app: Any, what: str, name: str, found: Any, skip: bool, options: Any) -> bool | None:
    """Fields of named tuples are told in the docstring of their class."""
    return True if type(found).__name__ == "_tuplegetter" else None


def setup(app: Any) -> None:
    """Hook into Sphinx."""
    app.connect("autodoc-process-docstring", _read)
    app.connect("autodoc-skip-member", _skip)
