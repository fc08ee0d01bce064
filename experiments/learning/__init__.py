"""Experiments that learn parameters, and their baselines."""
