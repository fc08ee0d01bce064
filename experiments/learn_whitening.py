"""A whitening of all dimensions, learned: `python -m experiments learn_whitening`."""

from configs import learn_whitening as card
from experiments._main import recorded, run_card
from experiments.learn import measure

run = recorded("learn_whitening", measure)


def main() -> None:
    """Reads the command line, learns, tests and records."""
    run_card("learn_whitening", card, run)
