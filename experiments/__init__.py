"""Programs that measure: each has `run(workdir)` and leaves a record."""
