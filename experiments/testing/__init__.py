"""Measurements of the test suite itself."""
