"""Numbers formatted for people: losses, counts, sizes, durations. No Keras here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

NONE = "–"


def number(value: float | None, digits: int = 4) -> str:
    """A loss or a rate in few characters; very small numbers in scientific notation.

    >>> number(2.34567), number(0.0003), number(None)
    ('2.3457', '3e-04', '–')
    """
    if value is None or not math.isfinite(value):
        return NONE
    if value and abs(value) < 10 ** (1 - digits):
        return f"{value:.1e}".replace(".0e", "e")
    return f"{value:.{digits}f}"


def count(value: float | None) -> str:
    """A large number with one of the letters k, M, G, T, P.

    >>> count(950), count(12_345), count(124_000_000), count(3.1e15)
    ('950', '12.3k', '124M', '3.1P')
    """
    if value is None or not math.isfinite(value):
        return NONE
    for letter in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.5 or letter == "P":
            digits = 0 if not letter or abs(value) >= 99.95 else 1
            return f"{value:.{digits}f}{letter}"
        value /= 1000
    raise AssertionError


def size(value: float) -> str:
    """Bytes, in powers of 1000.

    >>> size(512), size(81_000_000)
    ('512 B', '81.0 MB')
    """
    text = count(value)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


HARDWARE: dict[str, dict[str, Callable[[float], str]]] = {
    "CPU": {"cpu_percent": "{:.0f}%".format, "rss_bytes": size},
    "GPU": {
        "gpu_percent": "{:.0f}%".format,
        "gpu_memory_bytes": size,
        "gpu_temperature_c": "{:.0f} °C".format,
        "gpu_power_w": "{:.0f} W".format,
    },
}


def hardware(row: Mapping[str, float]) -> str:
    """Utilization, memory, temperature and power in a row of metrics; "" if it has none.

    >>> hardware({"loss": 2.0, "cpu_percent": 87.2, "rss_bytes": 1.5e9, "gpu_percent": 99})
    'CPU 87%, 1.5 GB; GPU 99%'
    """
    found = {
        device: [form(row[name]) for name, form in forms.items() if name in row]
        for device, forms in HARDWARE.items()
    }
    return "; ".join(f"{device} {', '.join(texts)}" for device, texts in found.items() if texts)


def duration(seconds: float | None) -> str:
    """Two units at most.

    >>> duration(42), duration(185), duration(7260), duration(200_000)
    ('42 s', '3 min 05 s', '2 h 01 min', '2 d 7 h')
    """
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return NONE
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def age(seconds: float) -> str:
    """How long ago, in one unit.

    >>> age(3), age(130), age(90_000)
    ('now', '2 min', '1 d')
    """
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "now" if seconds < 10 else f"{int(seconds)} s"
