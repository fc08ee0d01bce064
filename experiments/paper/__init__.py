"""Experiments of the paper: its tables and figures."""
