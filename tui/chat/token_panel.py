"""The token inspector: what else the model might have written, and branching there.

`Alternatives` lists tokens with their probability before and after the sampling controls; the
panel shows the token under the cursor, and `NextTokens` what would come after the text typed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message as Event
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from kgpt.protocol import TokenInfo, TopLogprob
from kgpt_tui.chat.token_colors import entropy
from kgpt_tui.shared.display import token_text

NAME, NUMBERS = 11, 13


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
        Binding("p", "colouring", "Colours", id="tokens.colouring"),
    ]

    class Recolour(Event):
        """The other kind of colours is wanted."""

    def __init__(self) -> None:
        super().__init__(id="alternatives", compact=True, markup=False)

    def action_step(self, offset: int) -> None:
        self.screen.step_token(offset)  # type: ignore[attr-defined]

    def action_colouring(self) -> None:
        self.post_message(self.Recolour())


class TokenPanel(Vertical):
    """The inspector of an answer's tokens."""

    def __init__(self) -> None:
        super().__init__(id="tokens")
        self.token: TokenInfo | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="token", markup=False)
        yield Alternatives()
        yield Static(id="legend")

    def show(self, token: TokenInfo | None, place: int = 0, of: int = 0, by: str = "") -> None:
        """Draw one token of an answer; None says how to get one."""
        self.token = token
        heading, options = self.query_one("#token", Static), self.query_one(Alternatives)
        options.clear_options()
        options.display = token is not None
        self.query_one("#legend", Static).update(_legend(by))
        if token is None:
            said = "Choose an answer with ↑ ↓ and press enter to see how sure the model was of "
            heading.update(Content.styled(said + "each token.", "$foreground-muted"))
            return
        heading.update(_facts(token, place, of))
        width = max(24, self.size.width - 2)
        options.add_options(
            Option(bar(other, width, other.id == token.id and other.text == token.text))
            for other in token.top_logprobs
        )
        names = [(other.id, other.text) for other in token.top_logprobs]
        own = (token.id, token.text)
        options.highlighted = names.index(own) if own in names else (0 if names else None)

    @property
    def chosen(self) -> TopLogprob | None:
        """The alternative under the cursor."""
        place = self.query_one(Alternatives).highlighted
        return self.token.top_logprobs[place] if self.token and place is not None else None


class NextTokens(Static):
    """What the model would write next, before and after the sampling controls."""

    def __init__(self) -> None:
        super().__init__(id="next", markup=False)

    def show(self, tokens: Sequence[TopLogprob], said: str = "") -> None:
        heading = Content.styled("Next token", "bold $primary")
        if not tokens:
            self.update(Content("\n").join([heading, Content.styled(said, "$foreground-muted")]))
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
    style = "bold $accent" if chosen else ("$foreground-muted strike" if gone else "$foreground")
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


def _facts(token: TokenInfo, place: int, of: int) -> Content:
    chance = math.exp(min(token.logprob, 0.0))
    known = len(token.top_logprobs)
    better = sum(other.logprob > token.logprob + 1e-9 for other in token.top_logprobs)
    rank = f"rank {better + 1}" if better < known else f"rank over {known}"
    return Content.assemble(
        (token_text(token.text), "bold $accent"),
        (f"  token {place + 1} of {of}\n", "$foreground-muted"),
        (percent(chance), "bold"), (f" · {rank} · {entropy(token):.0%} open", "$foreground"),
    )  # fmt: skip


def _legend(by: str) -> Content:
    if not by:
        return Content("")
    kind = "likely" if by == "probability" else "certain"
    return Content.assemble(
        (" un", "$error"), (f"{kind} ", "$error"), ("─ ", "$foreground-muted"),
        ("in between ", "$warning"), ("─ ", "$foreground-muted"), (kind, "$success"),
    )  # fmt: skip
