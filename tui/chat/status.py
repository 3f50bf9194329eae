"""The lines of text around a chat: the model's, the status, and the greeting of an empty chat."""

from __future__ import annotations

from textual.content import Content

from kgpt.formatting import count
from kgpt_tui.chat.controller import ChatController
from kgpt_tui.chat.session import last_answer
from kgpt_tui.shared.display import one_line, sanitize

METER = 8  # columns of the bar that shows how much of the context is used


def title_line(controller: ChatController) -> Content:
    """The conversation's title, marked where it has a system prompt."""
    title = one_line(controller.conversation.title or "New chat", 200)
    return Content.styled(title + ("  ⚙" if controller.conversation.system else ""), "bold")


def model_line(controller: ChatController, narrow: bool) -> Content:
    """The model, and whether it is ready; without details where the screen is narrow."""
    session, connection = controller.session, controller.connection
    if connection.busy:
        return Content.assemble(("◌ ", "$warning"), (one_line(connection.busy, 60), "$warning"))
    info = session.info
    if session.client is None or info is None:
        return Content.assemble(("○ no model", "$foreground-muted"))
    name = connection.server.model or info.id
    parts = [("● ", "$success"), (one_line(name, 32), "$foreground")]
    if not narrow:
        size = f" {count(info.parameters)}" if info.parameters else ""
        backend = f" {info.backend}" if info.backend else ""
        kind = " · text" if session.is_text else ""
        parts.append((f"{size}{backend}{kind}", "$foreground-muted"))
    return Content.assemble(*parts)


def status_line(controller: ChatController) -> Content:
    """Context used, tokens, tokens a second; while generating also how to stop."""
    answer = controller.answering or last_answer(controller.path)
    parts: list[tuple[str, str]] = []
    if controller.answering is not None:
        parts.append(("generating, esc stops  ", "$accent"))
    if (info := controller.session.info) is not None and info.context:
        total = answer.prompt_tokens + len(answer.tokens) if answer else 0
        used = min(total, info.context)  # a long answer loses its own beginning
        share = used / info.context
        full = round(share * METER)
        color = "$error" if share > 0.95 else ("$warning" if share > 0.8 else "$primary")
        parts += [("━" * full, color), ("─" * (METER - full), "$border")]
        parts.append((f" {used}/{info.context} context", "$foreground-muted"))
    if answer is not None and answer.left_out:
        parts.append((f", {answer.left_out} older left out", "$warning"))
    if answer is not None and answer.tokens:
        parts.append((f"  {len(answer.tokens)} tokens", "$foreground-muted"))
        if answer.speed:
            parts.append((f"  {answer.speed:.1f}/s", "$foreground-muted"))
    return Content.assemble(*parts)


def greeting(controller: ChatController) -> Content:
    """What an empty chat says: whether there is a model, and the keys to begin with."""
    session, connection = controller.session, controller.connection
    lines = [Content.styled("kgpt", "bold $primary"), Content("")]
    if connection.problem:
        lines += [Content.styled(sanitize(connection.problem), "$error"), Content("")]
    if session.client is None and not connection.busy:
        lines.append(Content("No model is loaded."))
        keys = [("ctrl+l", "choose one"), ("F5", "train one"), ("ctrl+b", "read old chats")]
    elif session.is_text:
        lines.append(Content("This model continues your text."))
        keys = [("enter", "generate"), ("ctrl+s", "sampling"), ("ctrl+t", "tokens")]
    else:
        lines.append(Content("Say something."))
        keys = [("/", "commands"), ("ctrl+s", "sampling"), ("ctrl+t", "token inspector")]
    rows = [
        Content.assemble((f"{key:>8}", "bold $accent"), (f"  {what:<16}", "$foreground-muted"))
        for key, what in keys
    ]
    return Content("\n").join([*lines, Content(""), *rows])
