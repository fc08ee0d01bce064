"""Experiments that measure time, memory and bytes."""
