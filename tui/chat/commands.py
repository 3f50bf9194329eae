"""The slash commands of the chat: one function each, declared once.

They are completed while typing, listed in the command palette, and run on the chat screen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kgpt.errors import UsageError
from kgpt_tui.chat.import_export import export, read_conversation

if TYPE_CHECKING:
    from kgpt_tui.chat.screen import ChatScreen

Function = Callable[[Any, str], Awaitable[None] | None]


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


def command(argument: str = "") -> Callable[[Function], Function]:
    """Declare a function as the command of its name; its docstring is the help."""

    def declare(function: Function) -> Function:
        name = function.__name__.strip("_").replace("_", "-")
        COMMANDS[name] = Command(name, argument, (function.__doc__ or "").strip(), function)
        return function

    return declare


async def run(screen: ChatScreen, line: str) -> None:
    """Do what `line`, without its slash, says."""
    name, _, argument = line.partition(" ")
    found = [n for n in COMMANDS if n == name] or [n for n in COMMANDS if n.startswith(name)]
    if not name or not found:
        raise UsageError(f"There is no command /{name}; type / to see them all.")
    chosen = COMMANDS[found[0]]
    if chosen.needs_argument and not argument.strip():
        raise UsageError(f"/{chosen.name} wants {chosen.argument}.")
    result: Any = chosen.function(screen, argument.strip())
    if isawaitable(result):
        await result


def matching(text: str) -> list[Command]:
    """The commands that `text`, which begins with a slash, may become."""
    if not text.startswith("/") or " " in text or "\n" in text:
        return []
    return [c for name, c in COMMANDS.items() if name.startswith(text[1:])]


@command()
async def new(screen: ChatScreen, argument: str) -> None:
    """Begin another chat."""
    await screen.action_new()


@command("[run or directory]")
def model(screen: ChatScreen, argument: str) -> None:
    """Choose the model that answers."""
    if argument:
        screen.use_model(argument)
    else:
        screen.action_models()


@command("[text]")
def system(screen: ChatScreen, argument: str) -> None:
    """The system prompt of this chat."""
    if argument:
        screen.set_system(argument)
    else:
        screen.action_system()


@command("<name=value>")
def _set(screen: ChatScreen, argument: str) -> None:
    """Set a sampling field, as in /set temperature=0.7."""
    name, _, value = argument.replace("-", "_", 1).partition("=")
    screen.set_field(name.strip(), value.strip())


@command("<name>")
def preset(screen: ChatScreen, argument: str) -> None:
    """Use a preset of sampling settings."""
    screen.use_preset(argument)


@command("[name]")
def save_preset(screen: ChatScreen, argument: str) -> None:
    """Keep the sampling settings as a preset."""
    screen.save_preset(argument)


@command()
def regenerate(screen: ChatScreen, argument: str) -> None:
    """Another answer to the same question."""
    screen.act("regenerate")


@command()
def continue_(screen: ChatScreen, argument: str) -> None:
    """Let the last answer go on."""
    screen.act("continue")


@command("<text>")
async def prefill(screen: ChatScreen, argument: str) -> None:
    """Begin the next answer with these words."""
    await screen.prefill(argument)


@command()
def edit(screen: ChatScreen, argument: str) -> None:
    """Change the last question and send it again."""
    screen.act("edit", own=True)


@command()
def copy(screen: ChatScreen, argument: str) -> None:
    """Copy the last answer."""
    screen.act("copy")


@command()
def tokens(screen: ChatScreen, argument: str) -> None:
    """Inspect the tokens of the last answer."""
    screen.act("inspect")


@command()
def sampling(screen: ChatScreen, argument: str) -> None:
    """Show or hide the sampling controls."""
    screen.action_panel("sampling")


@command()
def chats(screen: ChatScreen, argument: str) -> None:
    """Show or hide the list of chats."""
    screen.action_sidebar()


@command("<words>")
def search(screen: ChatScreen, argument: str) -> None:
    """Search all chats."""
    screen.search(argument)


@command("<title>")
def title(screen: ChatScreen, argument: str) -> None:
    """Name this chat."""
    screen.rename(argument)


@command("<auto, chat or text>")
def layout(screen: ChatScreen, argument: str) -> None:
    """Talk in turns, or let the model go on with a text."""
    screen.set_layout(argument)


@command()
def markdown(screen: ChatScreen, argument: str) -> None:
    """Switch between plain text and Markdown."""
    screen.act("markdown")


@command("<file.md or file.json>")
def _export(screen: ChatScreen, argument: str) -> None:
    """Write this chat to a file."""
    path = Path(argument).expanduser()
    export(screen.session.conversation, path)
    screen.say(f"Written to {path}.")


@command("<file.md or file.json>")
async def _import(screen: ChatScreen, argument: str) -> None:
    """Read a chat from a file."""
    await screen.adopt(read_conversation(Path(argument).expanduser()))


@command()
async def delete(screen: ChatScreen, argument: str) -> None:
    """Put this chat away; u in the list brings it back."""
    await screen.delete_conversation()


@command()
def help_(screen: ChatScreen, argument: str) -> None:
    """Every key of this screen."""
    screen.app.action_help()  # type: ignore[attr-defined]


@command()
async def quit_(screen: ChatScreen, argument: str) -> None:
    """Leave kgpt."""
    await screen.app.action_quit()
