"""`python -m influencekit`: the command."""

from influencekit.cli import main

if __name__ == "__main__":
    main()
