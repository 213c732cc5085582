"""`diffplan queries`: what a model of several heads or streams knows, drawn."""

from diffplan.scripts.queries.command import Queries

__all__ = ["Queries"]
