"""Numbers of the papers' own code, which `tests/diffusion/test_originals.py` holds ours to.

    python -m diffplan.scripts.checks.originals CLONES tests/diffusion/originals.json

CLONES holds a clone of every repository of `MADE` at its commit, under its name without the owner.
einops is needed; what else they import (simulators, datasets, Lightning) is left out. Each is
asked for the last x that it shows its network, on inputs and a network of formulas.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from diffplan.scripts.checks.originals import chains, solvers
from diffplan.scripts.checks.originals.clones import MANY

MADE: dict[str, dict[str, Callable[[Path], Tensor]]] = {
    "LuChengTHU/dpm-solver @52bc3fb": {"dpm-solver++2m": solvers.dpm_solver_pp_2m},
    "wl-zhao/UniPC @cf9de85": {"unipc": solvers.unipc},
    "ermongroup/ddim @e8df66c": {"ddim": solvers.ddim},
    "luping-liu/PNDM @e771949": {"s-pndm": solvers.s_pndm, "f-pndm": solvers.f_pndm},
    "nachifur/RDDM @e597481": {
        "rddm": chains.rddm,
        "rddm, five steps": lambda clones: chains.rddm(clones, 5),
    },
    "nkicsl/Resfusion @c84d5d7": {"resfusion": chains.resfusion},
    "kpandey008/DiffuseVAE @8e6d251": {"diffuse-vae": chains.diffuse_vae},
    "ShiguiLi/EVODiff @1811f9e": {
        "evodiff": solvers.evodiff,
        "evodiff, many steps": lambda clones: solvers.evodiff(clones, MANY),
    },
    "thu-ml/DPM-Solver-v3 @ba16871": {
        "dpm-solver-v3, order 2": lambda clones: solvers.dpm_solver_v3(clones, 2),
        "dpm-solver-v3, order 3": lambda clones: solvers.dpm_solver_v3(clones, 3),
    },
    "malbergo/stochastic-interpolants @c9bc956": {"interpolant": chains.interpolant},
    "RenMing-Huang/TrajectoryDiffuser @214039d": {
        "temporal U-Net": chains.temporal_unet,
        "trajectory diffuser": chains.trajectory_diffuser,
    },
    "jannerm/diffuser @7ea4228": {"diffuser": chains.diffuser},
}


def main() -> None:
    """Write one file of all of them."""
    clones, out = map(Path, sys.argv[1:])
    lines = []
    for source, makers in MADE.items():
        for name, make in makers.items():
            values = [round(value, 7) for value in make(clones).double().flatten().tolist()]
            row = {"source": source, "values": values}
            lines.append(f"{json.dumps(name)}: {json.dumps(row)}")
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
