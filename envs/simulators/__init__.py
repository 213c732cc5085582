"""Environments: which there are, how one is found, what it takes."""
