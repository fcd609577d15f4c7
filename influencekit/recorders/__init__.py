"""Recorders: which states of a run are stored. Reached by name through the registry."""
