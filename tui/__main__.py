"""`python -m kgpt_tui` is `kgpt-tui`."""

from kgpt_tui.app import main

main()
