"""``python -m biaslab``: the command line."""

from biaslab.cli import main

if __name__ == "__main__":
    main()
