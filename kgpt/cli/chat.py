"""`kgpt chat`: a conversation in a plain terminal, a pipe, or a screen reader."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from kgpt.cli import options
from kgpt.cli.chat_commands import Conversation
from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.options import SamplingFlags
from kgpt.config import InferenceDtype
from kgpt.errors import KgptError, UsageError
from kgpt.runs import resolve_model
from kgpt.text.terminal_text import for_output


def chat(
    *,
    model: str,
    system: str | None = None,
    dtype: InferenceDtype = "float32",
    sampling: SamplingFlags = options.NONE,
) -> None:
    """Talk with a model. Answers stream; /help lists what else can be said.

    Without a terminal, each line of the input is a message, and only answers are printed.

    Parameters
    ----------
    model
        A model directory, a run (its best checkpoint), or run@step.
    system
        What the model is told before the conversation.
    dtype
        What weights are held in and computed with; int8 holds matrices in 8 bits.
    """
    folder = resolve_model(model)
    changes = options.given(sampling)
    prepare_process()
    silence_native_code()
    from kgpt.generation.generator import TextGenerator

    with TextGenerator(folder, max_num_seqs=1, dtype=dtype) as engine:
        if engine.chat_template is None:
            raise UsageError(
                f"{model} was trained on text, not on conversations; "
                f"`kgpt generate --model {model} --prompt ...` goes on with a text."
            )
        settings = options.over(engine.default_sampling, changes)
        Session(engine, Conversation(settings, system)).run()


class Session:
    """One sitting: reads lines, answers them."""

    def __init__(self, engine: Any, conversation: Conversation):
        self.engine, self.conversation = engine, conversation
        self.interactive = sys.stdin.isatty()
        if self.interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (line editing and history, where there is any)

    def run(self) -> None:
        if self.interactive:
            print("/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves.")
        while True:
            try:
                line = self._line()
                if line.startswith("/"):
                    answer = self.conversation.command(line, self._say)
                elif answer := bool(line.strip()):
                    self.conversation.add("user", line)
                if answer:
                    self._answer()
            except EOFError:
                return
            except KeyboardInterrupt:  # at the prompt: drop the line
                print()
            except KgptError as error:
                print(f"kgpt: {error}", file=sys.stderr)

    def _line(self) -> str:
        prompt = "> " if self.interactive else ""
        parts = [input(prompt)]
        while parts[-1].endswith("\\"):
            parts[-1] = parts[-1][:-1]
            parts.append(input("… " if self.interactive else ""))
        return "\n".join(parts)

    def _answer(self) -> None:
        """Stream the answer; an interrupted one is kept as far as it came."""
        ids = self._prompt()
        said: list[str] = []
        events = self.engine.stream(ids, self.conversation.sampling)
        try:
            for event in events:
                said.append(event.text)
                sys.stdout.write(for_output(event.text))
                sys.stdout.flush()
                if event.error:
                    raise UsageError(event.error)
        except KeyboardInterrupt:
            events.close()
        print()
        self.conversation.add("assistant", "".join(said))

    def _prompt(self) -> list[int]:
        """The conversation as ids; the oldest turns are dropped if it outgrows the context."""
        return self.engine.chat_prompt(self.conversation.prompt())

    def _say(self, text: str) -> None:
        print(for_output(text), file=sys.stdout if self.interactive else sys.stderr)
