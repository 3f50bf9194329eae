"""Versions of what a result depends on."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform

# What a package is called on the registry, where that depends on the device.
DISTRIBUTIONS = {"tensorflow": ("tensorflow", "tensorflow-cpu", "tf-nightly")}


def installed_versions(*packages: str) -> dict[str, str]:
    """The versions of kgpt, of Python, and of those of the packages that are installed."""
    import kgpt

    found = {"kgpt": kgpt.__version__, "python": platform.python_version()}
    for package in packages:
        for name in DISTRIBUTIONS.get(package, (package,)):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found.setdefault(package, importlib.metadata.version(name))
    return found
