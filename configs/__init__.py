"""One file per experiment: its docstring is the experiment's card."""
