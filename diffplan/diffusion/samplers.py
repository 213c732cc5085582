"""All samplers by name: each file of them ends with what is to be known of its own."""

from diffplan.diffusion import ddim, dpm_solver_v3, evodiff, multistep, pndm
from diffplan.diffusion.sampling import Sampler

SAMPLERS: dict[str, Sampler] = {
    sampler.name: sampler
    for file in (ddim, multistep, pndm, evodiff, dpm_solver_v3)
    for sampler in file.SAMPLERS
}
"""By the name used in `planning.sampler`."""
