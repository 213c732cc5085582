"""Training data: the flat episode store, windows cut from it, normalisers fitted on it."""
