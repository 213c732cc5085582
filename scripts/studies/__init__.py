"""Many runs beside each other."""

from typing import TYPE_CHECKING

from diffplan.lazy import attributes

if TYPE_CHECKING:
    from diffplan.scripts.studies.compare import Compare
    from diffplan.scripts.studies.family import Family
    from diffplan.scripts.studies.study import Study
    from diffplan.scripts.studies.survey import Survey
else:  # one command's help needs no other command
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "diffplan.scripts.studies.compare": "Compare",
            "diffplan.scripts.studies.family": "Family",
            "diffplan.scripts.studies.study": "Study",
            "diffplan.scripts.studies.survey": "Survey",
        },
    )

__all__ = ["Compare", "Family", "Study", "Survey"]
