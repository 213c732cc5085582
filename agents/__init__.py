"""diffplan.agents: what other code imports. One file per method, one line here to register it."""

from diffplan.agents.exporting import export
from diffplan.agents.loading import load_agent
from diffplan.agents.planner_agent import PlannerAgent
from diffplan.agents.policy import Policy
from diffplan.agents.queries import Queries
from diffplan.agents.state import AgentState
from diffplan.engines.decision import Plan

__all__ = ["AgentState", "Plan", "PlannerAgent", "Policy", "Queries", "export", "load_agent"]
