"""What is installed is what is there: every package, every preset, from a wheel as from here."""

import subprocess
import sys
import tomllib
import zipfile
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_on_disk_is_listed_and_no_other():
    found = set()
    for folder, name in (("kgpt", "kgpt"), ("tui", "kgpt_tui"), ("configs", "kgpt_configs")):
        for file in [ROOT / folder / "__init__.py", *(ROOT / folder).rglob("*/__init__.py")]:
            found.add(".".join([name, *file.parent.relative_to(ROOT / folder).parts]))
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_every_folder_of_modules_is_a_package():
    for folder in ("kgpt", "tui", "configs"):
        for file in (ROOT / folder).rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), file


def test_presets_are_found_through_the_package():
    names = {path.name for path in resources.files("kgpt_configs").iterdir()}
    assert {path.name for path in (ROOT / "configs").glob("*.yaml")} <= names


def test_entry_points_exist():
    from importlib import import_module

    for target in PROJECT["project"]["scripts"].values():
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name))


@pytest.mark.slow
def test_a_wheel_holds_every_module_and_data_file(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT],
        check=True,
    )
    (wheel,) = tmp_path.glob("kgpt-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    for folder, name in (("kgpt", "kgpt"), ("tui", "kgpt_tui"), ("configs", "kgpt_configs")):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert f"{name}/{file.relative_to(ROOT / folder)}" in held
