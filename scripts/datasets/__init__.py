"""`diffplan datasets`: make, list, download and show data."""

from diffplan.scripts.datasets.command import Download, List, Make, Show

__all__ = ["Download", "List", "Make", "Show"]
