"""`python -m diffjax`, which is `diffjax`."""

from diffjax.cli import main

if __name__ == "__main__":
    main()
