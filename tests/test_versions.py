"""Versions are recorded under the name that is imported."""

import importlib.metadata

from kgpt.versions import installed_versions


def test_tensorflow_is_found_by_the_name_of_its_build_without_cuda(monkeypatch):
    def version(name):
        if name in ("tensorflow-cpu", "numpy"):
            return "2.99"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = installed_versions("tensorflow", "numpy", "torch")
    assert found["tensorflow"] == "2.99" == found["numpy"] and "torch" not in found
