"""Numbers of the papers' own code, see `__main__`."""
