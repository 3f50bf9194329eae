"""`python -m kgpt` is the command `kgpt`."""

from kgpt.cli import main

main()
