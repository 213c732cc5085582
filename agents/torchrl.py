"""An agent as a policy of TorchRL: `env.rollout(1000, policy=TorchRLPolicy(agent))`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from diffplan.errors import DiffplanError

try:
    from tensordict import TensorDictBase
    from tensordict.nn import TensorDictModuleBase
except ImportError as error:
    raise DiffplanError(
        f"diffplan.agents.torchrl needs {error.name}, which is not installed; "
        "pip install 'diffplan[torchrl]'"
    ) from None

if TYPE_CHECKING:
    from diffplan.agents.planner_agent import PlannerAgent
    from diffplan.agents.state import AgentState


class TorchRLPolicy(TensorDictModuleBase):
    """Reads the observation and `is_init` (of the transform InitTracker), writes the action.

    TorchRL resets environments one by one and marks the first observation of an episode; the
    batch shape of the tensordict may be any. What the agent remembers is kept here, from call to
    call, until `reset`.
    """

    def __init__(self, agent: PlannerAgent) -> None:
        super().__init__()
        layout = agent.layout
        self._keys = layout.dict_keys + (("desired_goal",) if layout.goal_dim else ())
        self.in_keys = [*(self._keys or ("observation",)), "is_init"]
        self.out_keys = ["action"]
        self._agent = agent
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next observation begins an episode in every row."""
        self._state: AgentState | None = None
        self._shape: torch.Size | None = None

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        shape = tensordict.batch_size

        def rows(key: str) -> np.ndarray:
            value: torch.Tensor = tensordict[key]
            result: np.ndarray = value.reshape(shape.numel(), -1).cpu().numpy()
            return result

        there = set(tensordict.keys())
        if missing := [key for key in self.in_keys if key not in there]:
            raise DiffplanError(
                f"the tensordict lacks {missing[0]!r}, expected {', '.join(self.in_keys)} "
                "(is_init comes from the transform InitTracker)"
            )
        if shape != self._shape:
            self.reset()
            self._shape = shape
        observation = {key: rows(key) for key in self._keys} or rows("observation")
        action, self._state = self._agent.predict(observation, self._state, rows("is_init")[:, 0])
        placed = torch.from_numpy(action).to(tensordict.device or torch.device("cpu"))
        tensordict["action"] = placed.reshape(*shape, -1)
        return tensordict
