"""What the documentation refers to exists: links, benchmarks, and the figures it repeats."""

from __future__ import annotations

import re

from tests.pages import PAGES, ROOT


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_benchmarks_that_are_named_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"python -m (benchmarks\.\w+)", page.read_text(encoding="utf-8")):
            assert (ROOT / name.replace(".", "/")).with_suffix(".py").is_file()


def test_speeds_in_the_readme_are_those_of_the_performance_page() -> None:
    """README repeats the ratios to a peer on a CPU, and the rates on a GPU."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    measured = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8").replace("x |", "× |")
    section = readme.partition("## Speed")[2].partition("\n## ")[0]
    on_cpu, _, on_gpu = section.partition("On one NVIDIA")
    ratios = re.findall(r"\d\.\d\d×", on_cpu)
    rates = re.findall(r"(?<=\| )\d[\d,]+(?= \()", on_gpu)
    assert ratios and rates
    assert not [figure for figure in (*ratios, *rates) if figure not in measured]
