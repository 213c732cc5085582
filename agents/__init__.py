"""diffplan.agents: what other code imports. One file per method, one line here to register it."""

from diffplan.agents.loading import load_agent
from diffplan.agents.planner_agent import PlannerAgent
from diffplan.agents.plans import AgentState, PlanView
from diffplan.agents.queries import Queries

__all__ = ["AgentState", "PlanView", "PlannerAgent", "Queries", "load_agent"]
