"""The package index shows README.md without the repository: its relative links become addresses."""

import re
from pathlib import Path

from setuptools import setup

PLACE = "https://github.com/diffplan/diffplan"


def address(link: re.Match[str]) -> str:
    """A relative link or picture, absolute."""
    kind = "raw" if link[1] == "!" else "blob"
    return f"{link[1]}[{link[2]}]({PLACE}/{kind}/main/{link[3]})"


readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
setup(
    long_description=re.sub(r"(!?)\[([^]]*)\]\((?!https?:|#)([^)]+)\)", address, readme),
    long_description_content_type="text/markdown",
)
