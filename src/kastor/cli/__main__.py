"""`python -m kastor.cli`."""

from kastor.cli import main

main()
