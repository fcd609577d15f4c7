"""The result pages of docs, one module a page; docs/tables.py writes them."""
