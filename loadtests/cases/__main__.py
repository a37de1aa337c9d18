"""`python -m loadtests.cases`: see command.py."""

from loadtests.cases.command import main

if __name__ == "__main__":
    main()
