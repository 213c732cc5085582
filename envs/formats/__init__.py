"""Datasets that others wrote: read, fetched, cached, stored."""
