"""Cards of the experiments: one file each, with its settings, full and quick."""
