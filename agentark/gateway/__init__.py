"""A server that records any multi-agent system as trajectories: docs/bring_your_own_team.md."""

from agentark.gateway.client import Team

__all__ = ["Team"]
