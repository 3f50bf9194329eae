"""A long chat mounts few messages; CPU times are printed, not asserted."""

import resource
import time

from kgpt_tui.chat.composer import Composer
from kgpt_tui.chat.message_list import MOUNTED, MessageList
from kgpt_tui.chat.message_view import MessageView
from tests.tui.chatting import chat, conversation

LONG = "A paragraph of an answer, with *Markdown* and `code` in it. " * 6


def test_five_hundred_messages(tmp_path, capsys):
    figures = {}

    async def timed(chat, name, work, times=5):
        began = time.process_time()
        for _ in range(times):
            await work()
        figures[name] = 1000 * (time.process_time() - began) / times

    async def script(chat):
        made = conversation(*(f"{n} {LONG}" for n in range(500)))
        await timed(chat, "open", lambda: chat.controller.adopt(made), times=1)
        messages, composer = chat.screen.query_one(MessageList), chat.screen.query_one(Composer)
        composer.focus()
        await chat.pilot.pause()
        await timed(chat, "key", lambda: chat.pilot.press("a"))
        await timed(chat, "focus", lambda: chat.press("escape"))
        messages.focus()
        await timed(chat, "choose", lambda: chat.pilot.press("up"))
        composer.focus()
        await timed(chat, "answer of 14 tokens", lambda: chat.ask("more"), times=1)
        assert len(chat.path) == 502
        assert len(chat.screen.query(MessageView)) <= MOUNTED + 2  # the rest is not mounted

    chat(script, tmp_path)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with capsys.disabled():
        said = ", ".join(f"{name} {ms:.0f} ms" for name, ms in figures.items())
        print(f"\n500 messages, CPU: {said}; {memory:.0f} MB")
