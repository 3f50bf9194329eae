"""The shape of the code: no import cycles, files and functions of readable size, all annotated."""

from __future__ import annotations

import ast
import statistics
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "kgpt").rglob("*.py"), *(ROOT / "tui").rglob("*.py")])
MOST_LINES = 350


@pytest.mark.parametrize("package", ["kgpt", "kgpt_tui"])
def test_no_module_imports_itself_in_a_circle(package: str) -> None:
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    imports = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError with the circle


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    documented = ast.get_docstring(node, clean=False)
    return (
        (node.end_lineno or node.lineno)
        - node.lineno
        + 1
        - (documented.count("\n") + 1 if documented else 0)
    )


def test_functions_fit_a_screen() -> None:
    sizes = sorted(code_lines(node) for path in SOURCES for node in functions(path))
    assert statistics.median(sizes) <= 8
    assert sizes[int(len(sizes) * 0.9)] <= 25


def test_files_stay_readable() -> None:
    sizes = {p: p.read_text(encoding="utf-8").count("\n") for p in SOURCES}
    assert {str(p.relative_to(ROOT)): n for p, n in sizes.items() if n > MOST_LINES} == {}


def test_no_file_is_named_for_nothing() -> None:
    assert not [p for p in SOURCES if p.stem in ("utils", "helpers", "misc", "common")]
