"""Calls of the Python API with odd arguments: what to call, with what, and slow ways to check some."""
