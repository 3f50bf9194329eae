"""What a person sees while training: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import datetime
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from kgpt.training.callbacks.status_writer import StatusWriter

BAR_WIDTH = 24
IN_BAR_ONLY = ("grad_norm", "tokens_per_s", "mfu")  # in a terminal; plain lines have everything
IN_LINES_ONLY = ("val_perplexity", "val_bits_per_byte", "grad_norm")


class ProgressReporter:
    """Shows rows and samples as they come, and writes the same as plain lines to train.log.

    Args:
        console: where to show; its `is_terminal` decides between bar and lines.
        status: what state the run is in; the bar shows it, "compiling" included.
        log: the log file, or None.
        quiet: show nothing but write the log.
    """

    def __init__(self, console: Console, status: StatusWriter, log: Path | None, quiet=False):
        self.console, self.status, self.quiet = console, status, quiet
        self._log = log.open("a", encoding="utf-8") if log else None
        self._row: dict = {}
        self._live: Live | None = None

    def __enter__(self):
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

    def __exit__(self, *exception):
        if self._live is not None:
            self._live.stop()
        if self._log is not None:
            self._log.close()

    def say(self, message: str) -> None:
        """A line for both the person and the log. Never read as markup."""
        self.write_log(message)
        if not self.quiet:
            self.console.print(Text(message), soft_wrap=True)

    def on_row(self, row: dict) -> None:
        self._row = self._row | row
        self.write_log(line_of(row))
        if self.quiet:
            return
        if self._live is None:
            self.console.print(Text(line_of(row)), soft_wrap=True)
        elif "val_loss" in row:
            line = line_of({name: row[name] for name in row if name not in IN_BAR_ONLY})
            self.console.print(Text(line, style="bold"), soft_wrap=True)

    def on_sample(self, row: dict) -> None:
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
        """One line, cut where the terminal ends: what matters most comes first."""
        status = self.status.status
        done = round(BAR_WIDTH * min(1.0, status.step / max(1, status.total_steps)))
        line = Text(f"{status.state:<11}", style="cyan", no_wrap=True, overflow="ellipsis")
        line.append("━" * done, style="green")
        line.append("━" * (BAR_WIDTH - done), style="dim")
        line.append(f"  {status.step:,}/{status.total_steps:,}", style="default")
        if status.eta_s is not None:
            line.append(f"  ETA {duration(status.eta_s)}", style="default")
        if self._row:
            row = {name: self._row[name] for name in self._row if name not in IN_LINES_ONLY}
            line.append("  " + line_of(row).partition(": ")[2], style="default")
        return line


def line_of(row: dict) -> str:
    """One row of metrics as a line: "step 250: loss 2.01  val 2.08 ..."."""
    shown = []
    if "loss" in row:
        shown.append(f"loss {row['loss']:.4f}")
    if "val_loss" in row:
        shown.append(f"val {row['val_loss']:.4f}")
    if "val_perplexity" in row:
        shown.append(f"perplexity {row['val_perplexity']:.2f}")
    if "val_bits_per_byte" in row:
        shown.append(f"{row['val_bits_per_byte']:.3f} bits/byte")
    if "lr" in row:
        shown.append(f"lr {row['lr']:.2e}")
    if "grad_norm" in row:
        shown.append(f"norm {row['grad_norm']:.2f}")
    if "tokens_per_s" in row:
        shown.append(f"{row['tokens_per_s']:,.0f} tok/s")
    if "mfu" in row:
        shown.append(f"{row['mfu']:.0%} of peak")
    return f"step {row['step']}: " + "  ".join(shown)


def duration(seconds: float) -> str:
    """ "1:02:03" or "02:03"."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"
