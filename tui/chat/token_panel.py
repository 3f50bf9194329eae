"""The token inspector: what else the model might have written, and branching there.

`Alternatives` lists tokens with their probability before and after the sampling controls; the
panel shows the token under the cursor, and `NextTokens` what would come after the text typed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message as Event
from textual.timer import Timer
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from kgpt.protocol import TokenInfo, TopLogprob
from kgpt_tui.chat.conversation import Message
from kgpt_tui.chat.session import can_branch_to
from kgpt_tui.chat.token_colors import Coloring, entropy
from kgpt_tui.shared.display import token_text

NAME, NUMBERS = 11, 13  # columns
PREDICT_DELAY_S = 0.25  # without typing, before the next token is predicted


class Alternatives(OptionList):
    """Up and down choose a token, Enter branches there, left and right go along the answer."""

    HELP_TITLE = "Tokens"
    BINDINGS = [
        Binding("left,h", "step(-1)", "Before", id="tokens.before"),
        Binding("right,l", "step(1)", "After", id="tokens.after"),
        Binding("shift+left,H", "step(-10)", "Ten before", id="tokens.ten_before", show=False),
        Binding("shift+right,L", "step(10)", "Ten after", id="tokens.ten_after", show=False),
        Binding("j", "cursor_down", "Down", id="tokens.down", show=False),
        Binding("k", "cursor_up", "Up", id="tokens.up", show=False),
        Binding("enter", "select", "Branch", id="tokens.branch"),
        Binding("p", "coloring", "Colours", id="tokens.colouring"),
    ]

    def __init__(self, panel: TokenPanel) -> None:
        super().__init__(id="alternatives", compact=True, markup=False)
        self._panel = panel

    def action_step(self, offset: int) -> None:
        self._panel.step(offset)  # at once, so that the next key finds the list of the new token

    def action_coloring(self) -> None:
        self.post_message(TokenPanel.ToggleColoring())


class TokenPanel(Vertical):
    """The inspector of an answer's tokens: `answer` and the `position` of the token shown."""

    class Moved(Event):
        """Another token, or none, is inspected."""

    class ToggleColoring(Event):
        """Colour tokens by the other of probability and entropy."""

    @dataclass
    class Branch(Event):
        """Continue `answer` with another token at `position`."""

        answer: Message
        position: int
        token: TopLogprob

    def __init__(self) -> None:
        super().__init__(id="tokens")
        self.answer: Message | None = None
        self.position = 0
        self._by: Coloring = "probability"

    def compose(self) -> ComposeResult:
        yield Static(id="token", markup=False)
        yield Alternatives(self)
        yield Static(id="legend")

    @property
    def is_open(self) -> bool:
        """True if the panel can be seen."""
        return self.display and self.screen.has_class("-panel")

    @property
    def token(self) -> TokenInfo | None:
        """The token under the cursor."""
        if self.answer is None or not self.answer.tokens:
            return None
        return self.answer.tokens[min(self.position, len(self.answer.tokens) - 1)]

    def inspect(self, answer: Message | None, position: int = 0) -> None:
        """Go to a token of `answer`; `render_token` draws it."""
        self.answer, self.position = answer, position

    def step(self, offset: int) -> None:
        """Go `offset` tokens along the answer."""
        if self.answer is not None:
            last = len(self.answer.tokens) - 1
            self.position = min(max(self.position + offset, 0), last)
            self.render_token()
            self.post_message(self.Moved())

    def render_token(self, by: Coloring | None = None) -> None:
        """Draw the token under the cursor; without one, how to get one."""
        self._by = by or self._by
        token, answer = self.token, self.answer
        heading, options = self.query_one("#token", Static), self.query_one(Alternatives)
        options.clear_options()
        options.display = token is not None
        self.query_one("#legend", Static).update(_legend(self._by) if token else "")
        if token is None or answer is None:
            hint = "Choose an answer with ↑ ↓ and press enter to see how sure the model was of "
            heading.update(Content.styled(hint + "each token.", "$foreground-muted"))
            return
        self.position = min(self.position, len(answer.tokens) - 1)
        heading.update(_summary(token, self.position, len(answer.tokens)))
        width = max(24, self.size.width - 2)
        options.add_options(
            Option(
                bar(other, width, other.id == token.id and other.text == token.text),
                disabled=not can_branch_to(other),
            )
            for other in token.top_logprobs
        )
        names = [(other.id, other.text) for other in token.top_logprobs]
        own = (token.id, token.text)
        options.highlighted = names.index(own) if own in names else (0 if names else None)

    def focus_list(self) -> None:
        self.query_one(Alternatives).focus()

    @on(Alternatives.OptionSelected)
    def _branch(self, event: Alternatives.OptionSelected) -> None:
        event.stop()
        if self.answer is not None and (token := self.token) is not None:
            chosen = token.top_logprobs[event.option_index]
            self.post_message(self.Branch(self.answer, self.position, chosen))


class NextTokens(Static):
    """The most likely next tokens, before and after the sampling controls."""

    class Due(Event):
        """The prediction is to be made anew."""

    def __init__(self) -> None:
        super().__init__(id="next", markup=False)
        self._timer: Timer | None = None

    def schedule(self) -> None:
        """Post `Due` soon, unless something changes before."""
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(PREDICT_DELAY_S, lambda: self.post_message(self.Due()))

    def show(self, tokens: Sequence[TopLogprob], hint: str = "") -> None:
        heading = Content.styled("Next token", "bold $primary")
        if not tokens:
            self.update(Content("\n").join([heading, Content.styled(hint, "$foreground-muted")]))
            return
        rows = max(1, self.size.height - 1)
        width = max(24, self.size.width)
        note = Content.styled(
            "  before → after the controls" if width > 40 else "  before → after",
            "$foreground-muted",
        )
        lines = [bar(token, width) for token in tokens[:rows]]
        self.update(Content("\n").join([heading + note, *lines]))


def bar(token: TopLogprob, width: int, chosen: bool = False) -> Content:
    """A token, a bar of its probability, and the probability before and after the controls."""
    chance = math.exp(min(token.logprob, 0.0))
    room = max(2, width - NAME - NUMBERS - 1)
    after = token.sampling_prob
    kept = chance if after is None else after
    full, eighth = divmod(round(min(max(kept, 0.0), 1.0) * room * 8), 8)
    drawn = "█" * full + (" ▏▎▍▌▋▊▉"[eighth] if eighth else "")
    ghost = "░" * max(0, round(chance * room) - len(drawn))
    drawn = drawn[:room]
    name = Content(token_text(token.text)).truncate(NAME, ellipsis=True, pad=True)
    gone = after is not None and after <= 0
    plain = "$foreground" if can_branch_to(token) else "$foreground-muted"
    style = "bold $accent" if chosen else ("$foreground-muted strike" if gone else plain)
    numbers = f"{percent(chance):>5}" + ("" if after is None else f" →{percent(after):>5}")
    return Content.assemble(
        name.stylize(style), " ", (drawn, "$success"), (ghost, "$foreground-muted"),
        " " * max(0, room - len(drawn) - len(ghost)),
        (f"{numbers:>{NUMBERS}}", "$foreground-muted" if gone else "$foreground"),
    )  # fmt: skip


def percent(chance: float) -> str:
    """Three digits at most.

    >>> percent(0.5), percent(0.0123), percent(1e-9), percent(0)
    ('50%', '1.2%', '<.1%', '0')
    """
    if chance <= 0:
        return "0"
    if chance < 0.001:
        return "<.1%"
    return f"{100 * chance:.0f}%" if chance >= 0.0995 else f"{100 * chance:.1f}%"


def _summary(token: TokenInfo, position: int, count: int) -> Content:
    chance = math.exp(min(token.logprob, 0.0))
    known = len(token.top_logprobs)
    better = sum(other.logprob > token.logprob + 1e-9 for other in token.top_logprobs)
    rank = f"rank {better + 1}" if better < known else f"rank over {known}"
    return Content.assemble(
        (token_text(token.text), "bold $accent"),
        (f"  token {position + 1} of {count}\n", "$foreground-muted"),
        (percent(chance), "bold"), (f" · {rank} · {entropy(token):.0%} open", "$foreground"),
    )  # fmt: skip


def _legend(by: Coloring) -> Content:
    kind = "likely" if by == "probability" else "certain"
    return Content.assemble(
        (" un", "$error"), (f"{kind} ", "$error"), ("─ ", "$foreground-muted"),
        ("in between ", "$warning"), ("─ ", "$foreground-muted"), (kind, "$success"),
    )  # fmt: skip
