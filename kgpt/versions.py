"""Versions of what a result depends on."""

from __future__ import annotations

import importlib.metadata
import platform


def installed_versions(*packages: str) -> dict[str, str]:
    """The versions of kgpt, of Python, and of those of the packages that are installed."""
    import kgpt

    found = {"kgpt": kgpt.__version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
