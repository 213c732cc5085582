"""Data that are made here: controllers that run, and the datasets of their runs."""
