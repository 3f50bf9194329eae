"""The slash commands of the chat: one function each, declared once.

They are completed while typing, listed in the command palette, and run on a `CommandHost`, which
is the chat screen.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kgpt.errors import UsageError
from kgpt_tui.chat.controller import ChatController
from kgpt_tui.chat.conversation import Message
from kgpt_tui.shared.text_dialog import TextDialog

if TYPE_CHECKING:
    from kgpt_tui.chat.sides import PanelName
    from kgpt_tui.chat.view import ChatView


class CommandHost(Protocol):
    """What a command can do: change the chat by the controller, and show things."""

    @property
    def app(self) -> Any: ...
    @property
    def controller(self) -> ChatController: ...

    @property
    def view(self) -> ChatView: ...

    def use_model(self, model: str) -> None: ...
    def action_models(self) -> None: ...
    def inspect_message(self, message: Message) -> None: ...
    def action_panel(self, name: PanelName) -> None: ...
    def action_sidebar(self) -> None: ...
    def search_chats(self, words: str) -> None: ...


Function = Callable[[CommandHost, str], Awaitable[None] | None]


@dataclass(frozen=True)
class Command:
    """A command: its name, what may follow it, what it does."""

    name: str
    argument: str
    help: str
    function: Function

    @property
    def needs_argument(self) -> bool:
        return self.argument.startswith("<")


COMMANDS: dict[str, Command] = {}


def command(argument: str = "", name: str = "") -> Callable[[Function], Function]:
    """Declare a function as the command of its name, or of `name`; its docstring is the help."""

    def declare(function: Function, name: str = name) -> Function:
        name = name or function.__name__.strip("_").replace("_", "-")
        COMMANDS[name] = Command(name, argument, (function.__doc__ or "").strip(), function)
        return function

    return declare


async def run(host: CommandHost, line: str) -> None:
    """Run the command in `line`, which is without its slash."""
    name, _, argument = line.partition(" ")
    found = [n for n in COMMANDS if n == name] or [n for n in COMMANDS if n.startswith(name)]
    if not name or not found:
        raise UsageError(f"There is no command /{name}; type / to see them all.")
    chosen = COMMANDS[found[0]]
    if chosen.needs_argument and not argument.strip():
        raise UsageError(f"/{chosen.name} needs {chosen.argument}.")
    result = chosen.function(host, argument.strip())
    if isawaitable(result):
        await result


def matching(text: str) -> list[Command]:
    """The commands that `text`, which begins with a slash, may become."""
    if not text.startswith("/") or " " in text or "\n" in text:
        return []
    return [c for name, c in COMMANDS.items() if name.startswith(text[1:])]


@command()
async def new(host: CommandHost, argument: str) -> None:
    """Begin another chat."""
    await host.controller.new()


@command("[run or directory]")
def model(host: CommandHost, argument: str) -> None:
    """Choose the model that answers."""
    if argument:
        host.use_model(argument)
    else:
        host.action_models()


@command("[text]")
def system(host: CommandHost, argument: str) -> None:
    """The system prompt of this chat."""
    if argument:
        host.controller.set_system(argument)
    else:
        dialog = TextDialog("System prompt", host.controller.conversation.system)
        host.app.push_screen(
            dialog, lambda text: None if text is None else host.controller.set_system(text)
        )


@command("<name=value>")
def _set(host: CommandHost, argument: str) -> None:
    """Set a sampling field, as in /set temperature=0.7."""
    name, value = (*re.split(r"\s*=\s*|\s+", argument, maxsplit=1), "")[:2]
    host.view.sampling_panel.change_text(name.replace("-", "_"), value)


@command("<name>")
def preset(host: CommandHost, argument: str) -> None:
    """Use a preset of sampling settings."""
    host.view.sampling_panel.use_preset(argument)


@command("[name]")
def save_preset(host: CommandHost, argument: str) -> None:
    """Keep the sampling settings as a preset."""
    if argument:
        host.view.sampling_panel.save_preset(argument)
    else:
        host.view.sampling_panel.ask_preset_name()


@command()
async def regenerate(host: CommandHost, argument: str) -> None:
    """Another answer to the same question."""
    await host.controller.regenerate(host.controller.last_message())


@command()
async def continue_(host: CommandHost, argument: str) -> None:
    """Continue the last answer."""
    await host.controller.continue_answer(host.controller.last_message())


@command("<text>")
async def prefill(host: CommandHost, argument: str) -> None:
    """Begin the next answer with these words."""
    if not await host.controller.prefill("", argument):
        host.view.composer.fill(f"/prefill {argument}")


@command()
def edit(host: CommandHost, argument: str) -> None:
    """Change the last question and send it again."""
    host.view.messages.edit(host.controller.last_message(of_user=True))


@command()
def copy(host: CommandHost, argument: str) -> None:
    """Copy the last answer."""
    host.view.copy(host.controller.last_message())


@command("[file.json]")
def receipt(host: CommandHost, argument: str) -> None:
    """Copy the receipt of the last answer for kgpt replay, or write it to a new file."""
    answer = host.controller.last_message()
    if not answer.receipt:
        raise UsageError("This answer has no receipt: kgpt serve gives one to a finished answer.")
    if argument:
        host.controller.write_receipt(answer, Path(argument).expanduser())
    else:
        host.view.copy_text(answer.receipt)


@command()
def tokens(host: CommandHost, argument: str) -> None:
    """Inspect the tokens of the last answer."""
    host.inspect_message(host.controller.last_message())


@command()
def sampling(host: CommandHost, argument: str) -> None:
    """Show or hide the sampling controls."""
    host.action_panel("sampling")


@command()
def chats(host: CommandHost, argument: str) -> None:
    """Show or hide the list of chats."""
    host.action_sidebar()


@command("<words>")
def search(host: CommandHost, argument: str) -> None:
    """Search all chats."""
    host.search_chats(argument)


@command("<title>")
def title(host: CommandHost, argument: str) -> None:
    """Name this chat."""
    host.controller.rename(argument)


@command("<auto, chat or text>")
async def mode(host: CommandHost, argument: str) -> None:
    """Chat in turns, or let the model continue a text."""
    await host.controller.set_mode(argument)


@command()
async def markdown(host: CommandHost, argument: str) -> None:
    """Switch between plain text and Markdown."""
    await host.view.toggle_markdown()


@command("<file.md or file.json>")
def _export(host: CommandHost, argument: str) -> None:
    """Write this chat to a file."""
    host.controller.export(Path(argument).expanduser())


@command("<file.md or file.json>", name="export!")
def _export_replacing(host: CommandHost, argument: str) -> None:
    """Write this chat to a file, which may exist and is replaced."""
    host.controller.export(Path(argument).expanduser(), replace=True)


@command("<file.md or file.json>")
async def _import(host: CommandHost, argument: str) -> None:
    """Read a chat from a file."""
    await host.controller.import_file(Path(argument).expanduser())


@command()
async def delete(host: CommandHost, argument: str) -> None:
    """Delete this chat; u in the list brings it back."""
    await host.controller.delete()


@command()
def help_(host: CommandHost, argument: str) -> None:
    """Every key of this screen."""
    host.app.action_help()


@command()
async def quit_(host: CommandHost, argument: str) -> None:
    """Leave kgpt."""
    await host.app.action_quit()
