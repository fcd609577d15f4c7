"""Queries: numbers of the model whose change is asked for. Reached by name through the registry."""
