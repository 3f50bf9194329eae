"""What a person sees while training."""

import io

import pytest
from rich.console import Console

from kgpt.training.callbacks.progress import ProgressReporter, format_row
from kgpt.training.callbacks.status_writer import StatusWriter

ROW = {
    "step": 250, "time": 1.0, "loss": 2.0, "lr": 1e-3, "grad_norm": 0.5, "tokens_per_s": 12345.6,
    "mfu": 0.42,
}  # fmt: skip
VALIDATED = {**ROW, "val_loss": 2.25, "val_perplexity": 9.49, "val_bits_per_byte": 3.246}


def shown(terminal=False, quiet=False, width=120, log=None, rows=(ROW, VALIDATED)):
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=width, color_system=None)
    status = StatusWriter(None)
    status.update(state="training", step=250, total_steps=1000, eta_s=75)
    with ProgressReporter(console, status, log, quiet) as screen:
        screen.print("hello [bold]world[/bold]")
        for row in rows:
            screen.on_row(row)
        screen.on_sample({"step": 250, "prompt": "[red]", "text": "once [/] upon"})
    return output.getvalue()


def test_plain_lines_without_a_terminal():
    text = shown(width=40)
    assert "\x1b" not in text and "━" not in text
    assert text.splitlines() == [
        "hello [bold]world[/bold]",
        "step 250: loss 2.0000  lr 1.00e-03  norm 0.50  12,346 tok/s  42% of peak",
        "step 250: loss 2.0000  val 2.2500  perplexity 9.49  3.246 bits/byte  lr 1.00e-03  "
        "norm 0.50  12,346 tok/s  42% of peak",
        "── sample at step 250 ",
        "[red]once [/] upon",
    ]


def test_a_bar_in_a_terminal_and_lines_for_validations_only():
    text = shown(terminal=True)
    assert "━" in text and "250/1,000  25%  ETA 1 min 15 s" in text
    assert text.count("perplexity") >= 1
    assert "once [/] upon" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_shows_nothing_but_logs(terminal, tmp_path):
    log = tmp_path / "train.log"
    assert shown(terminal, quiet=True, log=log) == ""
    written = log.read_text()
    assert "step 250: loss 2.0000" in written and "sample at step 250: [red]once" in written
    assert "hello [bold]world[/bold]" in written


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_the_bar_never_wraps(width):
    """A bar of two lines would leave torn lines behind at each refresh."""
    status = StatusWriter(None)
    status.update(state="validating", step=999_999, total_steps=1_000_000, eta_s=99_999)
    console = Console(file=io.StringIO(), width=width)
    screen = ProgressReporter(console, status, None, quiet=True)
    screen.on_row(VALIDATED)
    (line,) = console.render_lines(screen._bar(), pad=False)
    text = "".join(segment.text for segment in line)
    assert len(text) <= width and text.startswith("validating")
    if width >= 60:
        assert "999,999/1,000,000" in text


def test_a_row_without_all_metrics_is_a_short_line():
    assert format_row({"step": 1, "loss": 2.5}) == "step 1: loss 2.5000"
