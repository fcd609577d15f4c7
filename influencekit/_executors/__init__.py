"""Retraining on executors: slices of the work, numbered by what is in them, kept in a folder as they end."""
