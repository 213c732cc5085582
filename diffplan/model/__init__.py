"""The networks in one module, and how it is saved."""
