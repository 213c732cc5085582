"""Many runs beside each other."""

from diffplan.scripts.studies.compare import Compare
from diffplan.scripts.studies.family import Family
from diffplan.scripts.studies.study import Study
from diffplan.scripts.studies.survey import Survey

__all__ = ["Compare", "Family", "Study", "Survey"]
