"""The networks in one module, and how it is saved."""

from typing import TYPE_CHECKING

from diffplan.lazy import attributes

if TYPE_CHECKING:
    from diffplan.model.checkpoint import load_model
    from diffplan.model.context import Context
    from diffplan.model.planner_model import PlannerModel
    from diffplan.model.run_folder import Header, find_checkpoint, list_checkpoints, read_header
    from diffplan.model.spec import ModelSpec
else:
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "diffplan.model.checkpoint": "load_model",
            "diffplan.model.context": "Context",
            "diffplan.model.planner_model": "PlannerModel",
            "diffplan.model.run_folder": "Header find_checkpoint list_checkpoints read_header",
            "diffplan.model.spec": "ModelSpec",
        },
    )

__all__ = [
    "Context",
    "Header",
    "ModelSpec",
    "PlannerModel",
    "find_checkpoint",
    "list_checkpoints",
    "load_model",
    "read_header",
]
