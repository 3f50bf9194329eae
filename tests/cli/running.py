"""Run `kgpt` in this process, or in one of its own."""

import subprocess
import sys

import pytest

from kgpt.cli import main


def kgpt(capsys, *arguments):
    """The exit code and what was printed on standard output and standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return caught.value.code, output.out, output.err


def child(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "kgpt", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )
