"""Progress on the console: a live bar in a terminal, plain lines elsewhere; and train.log."""

from __future__ import annotations

import datetime
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from kgpt.formatting import duration
from kgpt.training.callbacks.metrics_logger import MetricsRow
from kgpt.training.callbacks.sample_writer import SampleRow
from kgpt.training.callbacks.status_writer import StatusWriter

BAR_WIDTH = 24
# In a terminal some metrics are shown only in the bar, others only in lines for validations.
BAR_ONLY = ("grad_norm", "tokens_per_s", "mfu")
LINES_ONLY = ("val_perplexity", "val_bits_per_byte", "grad_norm")


class ProgressReporter:
    """Shows rows of metrics and samples, and writes the same as plain lines to train.log.

    Args:
        console: where to show; its `is_terminal` decides between bar and lines.
        status: of the run; the bar shows its state.
        log: the log file, or None.
        quiet: write the log only.
    """

    def __init__(
        self, console: Console, status: StatusWriter, log: Path | None, quiet: bool = False
    ):
        self.console, self.status, self.quiet = console, status, quiet
        self._log = log.open("a", encoding="utf-8") if log else None
        self._row: MetricsRow = {}
        self._live: Live | None = None

    def __enter__(self) -> ProgressReporter:
        if self.console.is_terminal and not self.quiet:
            self._live = Live(
                console=self.console,
                get_renderable=self._bar,
                refresh_per_second=4,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
        if self._log is not None:
            self._log.close()

    def print(self, message: str) -> None:
        """Show and log a line of plain text: markup in it is not interpreted."""
        self.write_log(message)
        if not self.quiet:
            self.console.print(Text(message), soft_wrap=True)

    def on_row(self, row: MetricsRow) -> None:
        self._row = self._row | row
        self.write_log(format_row(row))
        if self.quiet:
            return
        if self._live is None:
            self.console.print(Text(format_row(row)), soft_wrap=True)
        elif "val_loss" in row:
            line = format_row({name: row[name] for name in row if name not in BAR_ONLY})
            self.console.print(Text(line, style="bold"), soft_wrap=True)

    def on_sample(self, row: SampleRow) -> None:
        self.write_log(f"sample at step {row['step']}: {row['prompt']}{row['text']}")
        if not self.quiet:
            title = Text(f"── sample at step {row['step']} ", style="dim")
            text = Text(row["prompt"], style="dim") + Text(row["text"])
            self.console.print(title, text, sep="\n")

    def write_log(self, line: str) -> None:
        if self._log is not None:
            now = datetime.datetime.now().isoformat(timespec="seconds")
            self._log.write(f"{now} {line}\n")
            self._log.flush()

    def _bar(self) -> Text:
        """One line, truncated at the terminal's width: the most important comes first."""
        status = self.status.status
        share = min(1.0, status.step / max(1, status.total_steps))
        filled = round(BAR_WIDTH * share)
        line = Text(f"{status.state:<11}", style="cyan", no_wrap=True, overflow="ellipsis")
        line.append("━" * filled, style="green")
        line.append("━" * (BAR_WIDTH - filled), style="dim")
        line.append(f"  {status.step:,}/{status.total_steps:,}  {int(100 * share)}%")
        if status.eta_s is not None:
            line.append(f"  ETA {duration(status.eta_s)}", style="default")
        if self._row:
            row = {name: self._row[name] for name in self._row if name not in LINES_ONLY}
            line.append("  " + format_row(row).partition(": ")[2], style="default")
        return line


FORMATS = {
    "loss": "loss {:.4f}",
    "val_loss": "val {:.4f}",
    "val_perplexity": "perplexity {:.2f}",
    "val_bits_per_byte": "{:.3f} bits/byte",
    "val_accuracy": "accuracy {:.1%}",
    "val_macro_f1": "macro F1 {:.3f}",
    "lr": "lr {:.2e}",
    "grad_norm": "norm {:.2f}",
    "tokens_per_s": "{:,.0f} tok/s",
    "mfu": "{:.0%} of peak",
}


def format_row(row: MetricsRow) -> str:
    """A row of metrics as a line.

    >>> format_row({"step": 250, "loss": 2.01, "val_loss": 2.08})
    'step 250: loss 2.0100  val 2.0800'
    """
    parts = [form.format(row[name]) for name, form in FORMATS.items() if name in row]
    return f"step {row['step']}: " + "  ".join(parts)
