"""Many runs beside each other."""

from typing import TYPE_CHECKING

from diffplan.lazy import attributes

if TYPE_CHECKING:
    from diffplan.scripts.studies.family import Family
    from diffplan.scripts.studies.study import Study
else:  # one command's help needs no other command
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "diffplan.scripts.studies.family": "Family",
            "diffplan.scripts.studies.study": "Study",
        },
    )

__all__ = ["Family", "Study"]
