"""Estimators: methods that score training examples. Reached by name through the registry."""
