"""One message of a chat: a line that says whose it is, and the text, frozen in one widget each."""

from __future__ import annotations

import time

from rich.markdown import Markdown
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.events import Click
from textual.message import Message as Event
from textual.widgets import Static

from kgpt_tui.chat.conversation import Message
from kgpt_tui.chat.token_colors import Palette, colored
from kgpt_tui.shared.display import sanitize

REFRESH_S = 0.05
ENDINGS = {
    "stopped": "stopped", "length": "token limit", "interrupted": "interrupted",
    "cancelled": "stopped", "deadline": "out of time", "edited": "edited",
}  # fmt: skip


class MessageView(Vertical):
    """Draws a message; `refresh_text` again after it grew."""

    class Chosen(Event):
        """The message, or a token of it, was clicked."""

        def __init__(self, message: Message, token: int | None):
            super().__init__()
            self.message = message
            self.token = token

    def __init__(
        self, message: Message, sibling_number: tuple[int, int] = (1, 1), markdown: bool = False
    ):
        super().__init__(classes=f"message -{message.role}")
        self.message = message
        self.sibling_number = sibling_number  # this one, and how many there are
        self.markdown = markdown
        self.live = False
        self.token: int | None = None  # the token under the inspector's cursor
        self.palette: Palette | None = None  # given while the tokens are colored
        self._due = 0.0
        self._heading_line = Static(self._heading(), classes="heading")
        self._text = Static(self._body(), classes="body")

    def compose(self) -> ComposeResult:
        yield self._heading_line
        yield self._text

    def refresh_text(self, now: bool = True) -> None:
        """Draw again; with `now` False only as often as the last drawing was cheap enough."""
        started = time.monotonic()
        if not self.is_mounted or (not now and started < self._due):
            return
        self._heading_line.update(self._heading())
        self._text.update(self._body())
        self._due = started + max(REFRESH_S, 10 * (time.monotonic() - started)) - 0.005

    def token_line(self) -> int | None:
        """The line of this view in which the token under the cursor begins."""
        for y in range(self._text.size.height):
            for segment in self._text.render_line(y):
                if segment.style and segment.style.meta.get("token") == self.token:
                    return y + self._text.virtual_region.y
        return None

    def _heading(self) -> Content:
        message = self.message
        who = {"user": "You", "system": "System"}.get(message.role) or message.model or "Model"
        parts: list[tuple[str, str]] = [(sanitize(who), "bold")]
        number, of = self.sibling_number
        if of > 1:
            parts.append((f"  ‹ {number}/{of} ›", "$accent"))
        if message.is_answer and message.tokens:
            parts.append((f"  {len(message.tokens)} tokens", "$foreground-muted"))
            if message.speed:
                parts.append((f" · {message.speed:.0f}/s", "$foreground-muted"))
        if ending := ENDINGS.get(message.finish):
            parts.append((f" · {ending}", "$warning"))
        return Content.assemble(*parts)

    def _body(self) -> Content | Markdown:
        message = self.message
        parts: list[Content] = []
        if self.palette is not None and message.tokens:
            parts.append(colored(message, self.palette, self.token))
        elif self.markdown and message.content.strip() and not message.error:
            return Markdown(sanitize(message.content), code_theme="ansi_dark", hyperlinks=False)
        else:
            parts.append(Content(sanitize(message.content)))
        if self.live:
            parts.append(Content.styled("▍", "$accent"))
        elif not message.content and not message.error:
            parts.append(Content.styled("(nothing)", "$foreground-muted italic"))
        if message.error:
            gap = "\n" if message.content else ""
            parts.append(Content.styled(f"{gap}✗ {sanitize(message.error)}", "$error"))
        return Content("").join(parts)

    def on_click(self, event: Click) -> None:
        token = event.style.meta.get("token")
        self.post_message(self.Chosen(self.message, token))
