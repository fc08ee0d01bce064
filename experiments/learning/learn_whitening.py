"""Learned whitening of all dimensions: `python -m experiments learn_whitening`."""

from configs import learn_whitening as card
from experiments._runner import make_recorded_run, run_from_command_line

from .learn import measure

run = make_recorded_run("learn_whitening", measure)


def main() -> None:
    """Reads the command line, learns, tests and records."""
    run_from_command_line("learn_whitening", card, run)
