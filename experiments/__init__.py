"""Experiments: `python -m experiments NAME` measures and appends a record."""
