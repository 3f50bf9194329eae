"""The rows of `benchmarks/gpu.py` as Markdown, for docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
NAMES = {"jax": "JAX", "torch": "PyTorch", "tensorflow": "TensorFlow"}
GIBIBYTE = 1 << 30


def markdown(rows: list[Row]) -> str:
    """Heading, training, generation, checks, tests, and what did not finish, if any."""
    sections = [_heading(rows), _training(rows), _generation(rows), _checks(rows), _tests(rows)]
    return "\n\n".join(section for section in [*sections, _unfinished(rows)] if section) + "\n"


def failures(rows: list[Row]) -> list[str]:
    """What did not hold: parts that failed or timed out, checks, and tests."""
    found = [row["part"] for row in rows if row.get("status") in ("failed", "timed out")]
    found += [row["check"] for row in _latest(rows, "check") if not row["ok"]]
    return found + [name for row in _latest(rows, "tests") for name in row["failed"]]


def _latest(rows: list[Row], kind: str) -> list[Row]:
    """The rows of a kind; a later row of the same part, system and batch replaces an earlier."""
    found = {
        (row.get("part"), row.get("system"), row.get("batch"), row.get("check")): row
        for row in rows
        if row.get("kind") == kind
    }
    return list(found.values())


def _heading(rows: list[Row]) -> str:
    run = next((row for row in rows if row.get("kind") == "run"), {})
    facts = next((row for row in rows if row.get("kind") == "facts"), None)
    lines = ["A rehearsal on a CPU: no figure is a measurement."] if run.get("rehearsal") else []
    if facts:
        versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        driver = f", driver {facts['driver_version']}" if "driver_version" in facts else ""
        at = f" at {facts['commit']}" if facts.get("commit") else ""
        lines.append(
            f"{facts['name']}{driver}; {run.get('date', '')}{at}; Python {facts['python']}, "
            f"{versions}."
        )
    return "\n".join(lines)


def _training(rows: list[Row]) -> str:
    trained = _latest(rows, "train")
    base = next((r["tokens_per_s"] for r in trained if r["system"].startswith("nanoGPT")), None)
    return _table(
        trained,
        {
            "training": lambda r: r["system"],
            "batch": lambda r: str(r["batch"]),
            "ms/step": lambda r: f"{r['ms_per_step']:.1f}",
            "tokens/s": lambda r: f"{r['tokens_per_s']:,.0f}",
            "speed": lambda r: f"{r['tokens_per_s'] / base:.2f}×" if base else "–",
            "of measured peak": lambda r: _percent(r.get("mfu")),
            "of datasheet peak": lambda r: _percent(r.get("datasheet_mfu")),
            "peak memory": _memory,
            "compiled in": lambda r: f"{r['compile_s']:.0f} s",
        },
    )


def _generation(rows: list[Row]) -> str:
    return _table(
        _latest(rows, "decode"),
        {
            "generation": lambda r: r["system"],
            "batch": lambda r: str(r["batch"]),
            "TTFT ms": lambda r: _number(r.get("first_token_ms"), ".1f"),
            "TPOT ms": lambda r: _number(r.get("ms_per_token"), ".3f"),
            "tokens/s": lambda r: f"{r['tokens_per_s']:,.0f}",
            "of bandwidth": lambda r: _percent(
                r.get("of_datasheet_bandwidth", r.get("of_bandwidth"))
            ),
            "of peak": lambda r: _percent(r.get("of_datasheet_peak", r.get("of_peak"))),
            "peak memory": _memory,
        },
    )


def _checks(rows: list[Row]) -> str:
    return _table(
        _latest(rows, "check"),
        {
            "check": lambda r: r["check"],
            "backend": lambda r: NAMES[r["backend"]],
            "holds": lambda r: "yes" if r["ok"] else "**no**",
            "": lambda r: r["detail"].replace("|", "/").replace("\n", " "),
        },
        text_columns=4,
    )


def _tests(rows: list[Row]) -> str:
    found = _latest(rows, "tests")
    table = _table(
        found,
        {
            "tests": lambda r: NAMES[r["backend"]],
            "passed": lambda r: str(r["passed"]),
            "failed": lambda r: str(len(r["failed"])),
            "skipped": lambda r: str(r["skipped"]),
            "finished": lambda r: "yes" if r["finished"] else "**no**",
        },
    )
    lines = [
        f"- {NAMES[row['backend']]}{_first(row, name)}: `{name}`"
        + (f": {message}" if message else "")
        for row in found
        for name, message in row["failed"].items()
    ]
    return "\n\n".join(part for part in (table, "\n".join(lines)) if part)


def _first(row: Row, name: str) -> str:
    return ", first in its process" if name in row.get("first_failures", {}).values() else ""


def _unfinished(rows: list[Row]) -> str:
    lines = [
        f"- {row['part']}: {row['status']}" + (f": {row['reason']}" if row["reason"] else "")
        for row in rows
        if row.get("kind") == "part" and row["status"] != "ok"
    ]
    return "\n".join(["Not finished:", "", *lines]) if lines else ""


def _table(rows: list[Row], columns: dict[str, Callable[[Row], str]], text_columns: int = 1) -> str:
    if not rows:
        return ""
    align = ["---" if i < text_columns else "---:" for i in range(len(columns))]
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join(align)}|"]
    lines += [f"| {' | '.join(cell(row) for cell in columns.values())} |" for row in rows]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None, style: str) -> str:
    return "–" if value is None else format(value, style)


def _memory(row: Row) -> str:
    return f"{row['peak_memory'] / GIBIBYTE:.1f} GiB" if row.get("peak_memory") else "–"
