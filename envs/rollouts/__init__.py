"""Seeded episodes of a policy, and the scores that they are set beside."""
