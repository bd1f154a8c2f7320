"""The API server: `python -m api`."""
