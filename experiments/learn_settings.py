"""Alpha, gamma and lambda, learned: `python -m experiments learn_settings`."""

from configs import learn_settings as card
from experiments._main import recorded, run_card
from experiments.learn import measure

run = recorded("learn_settings", measure)


def main() -> None:
    """Reads the command line, learns, tests and records."""
    run_card("learn_settings", card, run)
