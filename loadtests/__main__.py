"""`python -m loadtests`: see loadtests/runner/command.py."""

from loadtests.runner.command import main

if __name__ == "__main__":
    main()
