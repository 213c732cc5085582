"""Datasets, environments, reference scores and rollouts: installed as diffplan.envs."""
