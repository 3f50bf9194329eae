"""`kgpt chat`: a chat in a plain terminal or a pipe, readable by screen readers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated, Any

from cyclopts import Parameter

from kgpt.cli import options
from kgpt.cli.adapters import parse_adapters
from kgpt.cli.chat_commands import ChatState
from kgpt.cli.environment import prepare_process, silence_native_code
from kgpt.cli.options import CacheDtype, Dtype, MemoryFraction, SamplingFlags
from kgpt.cli.streams import check_text
from kgpt.errors import KgptError, UsageError
from kgpt.runs import resolve_model
from kgpt.text.terminal_text import for_output


def chat(
    *,
    model: str,
    system: str | None = None,
    adapter: Annotated[list[str] | None, Parameter(negative="")] = None,
    dtype: Dtype = "auto",
    kv_cache_dtype: CacheDtype = "auto",
    memory_fraction: MemoryFraction = None,
    sampling: SamplingFlags = options.NO_FLAGS,
) -> None:
    """Chat with a model. Answers are streamed; /help lists the commands.

    Without a terminal, each line of the input is a message, and only the answers are printed.

    Parameters
    ----------
    model
        A model directory, a run (its best checkpoint), or run@step.
    system
        The system prompt.
    adapter
        A LoRA or DoRA adapter of the model, as NAME=FOLDER or its folder or run; may be given
        repeatedly. The first is used at first, /adapter changes it.
    """
    folder = resolve_model(model)
    changes = options.given_flags(sampling)
    adapters = parse_adapters(adapter or [])
    check_text(system or "", "The system prompt")
    prepare_process(memory_fraction)
    silence_native_code()
    from kgpt.generation.generator import TextGenerator

    with TextGenerator(
        folder, max_num_seqs=1, dtype=dtype, kv_cache_dtype=kv_cache_dtype, adapters=adapters
    ) as engine:
        state = ChatState(options.merged(engine.default_sampling, changes), system)
        state.adapters = list(adapters)
        state.adapter = next(iter(adapters), None)
        if engine.chat_template_of(engine.adapters.find(state.adapter)) is None:
            raise UsageError(
                f"{model} has no chat template; "
                f"continue text with `kgpt generate --model {model} --prompt ...`."
            )
        TerminalChat(engine, state).run()


class TerminalChat:
    """Reads lines from standard input and answers them."""

    def __init__(self, engine: Any, state: ChatState):
        self.engine, self.state = engine, state
        self.left_out = 0  # messages that the last prompt had no room for
        self.draft = ""  # a message to edit in the next line
        self.interactive = sys.stdin.isatty()
        if self.interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (line editing and history, where there is any)

    def run(self) -> None:
        if self.interactive:
            print("/help lists the commands; Ctrl-C stops an answer, Ctrl-D quits.")
        while True:
            try:
                line = self._line()
                if line.startswith("/"):
                    answer = self.state.command(line, self._say)
                elif answer := bool(line.strip()):
                    self.state.add("user", line)
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
        with prefilled(self.draft if self.interactive else ""):
            self.draft = ""
            parts = [input(prompt)]
        while parts[-1].endswith("\\"):
            parts[-1] = parts[-1][:-1]
            parts.append(input("... " if self.interactive else ""))
        return check_text("\n".join(parts), "The line", sys.stdin.encoding)

    def _answer(self) -> None:
        """Stream the answer and add it to the chat, also if it was interrupted."""
        from kgpt.generation.completion import check_chunk

        ids = self._prompt_ids()
        texts: list[str] = []
        chunks = self.engine.stream(ids, self.state.sampling, adapter=self.state.adapter)
        try:
            for chunk in chunks:
                texts.append(chunk.text)
                sys.stdout.write(for_output(chunk.text))
                sys.stdout.flush()
                check_chunk(chunk)
        except KeyboardInterrupt:
            chunks.close()
        print()
        self.state.add("assistant", "".join(texts))

    def _prompt_ids(self) -> list[int]:
        """The prompt, without the oldest turns where all of them leave no room for an answer.

        A message that is too long by itself is taken back, to be edited.
        """
        from kgpt.generation.context_shift import encode_chat, longest_prompt

        engine, messages = self.engine, self.state.prompt()
        longest = longest_prompt(engine.max_context, self.state.sampling.max_tokens)
        chat_template = engine.chat_template_of(engine.adapters.find(self.state.adapter))
        if chat_template is None:
            raise UsageError("The model has no chat template; /adapter NAME chooses an adapter.")
        ids, left_out = encode_chat(chat_template, messages, longest)
        if len(ids) >= engine.max_context:
            self.draft = self.state.messages.pop()["content"]
            raise UsageError(
                f"The message has {len(ids)} tokens with the system prompt, but the model's "
                f"context is {engine.max_context} with the answer; shorten one of them."
            )
        if left_out > self.left_out:
            self._say(f"The {left_out} oldest messages exceed the model's context; left out.")
        self.left_out = left_out
        return list(ids)

    def _say(self, text: str) -> None:
        print(for_output(text), file=sys.stdout if self.interactive else sys.stderr)


@contextlib.contextmanager
def prefilled(text: str) -> Iterator[None]:
    """`input` begins with `text`, to be edited, where there is readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    readline.set_startup_hook((lambda: readline.insert_text(text)) if text else None)
    try:
        yield
    finally:
        readline.set_startup_hook(None)
