"""`kgpt chat`: its commands, and the answers that it streams."""

import io
import json

import pytest

from kgpt.cli.chat import TerminalChat
from kgpt.cli.chat_commands import COMMANDS, HELP, ChatState
from kgpt.config import SamplingConfig
from kgpt.errors import KgptError, UsageError
from kgpt.protocol import GenerationChunk

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]


class Echo:
    """An engine whose answer is the last message in capitals, character by character.

    A character is a token, and the end of a message is one.
    """

    max_context = 100

    def __init__(self):
        self.chat_template = self.adapters = self
        self.prompts, self.adapters_used = [], []

    def chat_template_of(self, adapter):
        return self.chat_template

    def find(self, name):
        return name

    def encode(self, messages, add_generation_prompt=False, continue_final_message=False):
        return list("".join(f"{message['content']}|" for message in messages)), []

    def stream(self, ids, sampling, adapter):
        self.adapters_used.append(adapter)
        self.prompts.append("".join(ids))
        last = self.prompts[-1].split("|")[-2]
        if last == "fail":
            yield GenerationChunk("FA", finish_reason="error", error="The model is gone.")
        yield from map(GenerationChunk, last.upper())


def converse(monkeypatch, capsys, *lines, state=None, engine=None):
    """What `kgpt chat` prints for lines of piped input, and what it prints as errors."""
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    state = state or ChatState(SamplingConfig())
    TerminalChat(engine or Echo(), state).run()
    return state, *capsys.readouterr()


def state_of(*messages, **options):
    state = ChatState(SamplingConfig(), **options)
    for message in messages:
        state.add(**message)
    return state


def command(state, line):
    """The lines that a command says."""
    said = []
    state.command(line, said.append)
    return said


def test_only_answers_go_to_standard_output(monkeypatch, capsys):
    state, out, err = converse(
        monkeypatch, capsys, "hello", "", "/set temperature 0.5", "you\\", "two"
    )
    assert out == "HELLO\nYOU\nTWO\n"
    assert err == "temperature is 0.5.\n"
    assert [message["content"] for message in state.messages] == [
        "hello",
        "HELLO",
        "you\ntwo",
        "YOU\nTWO",
    ]


def test_an_error_of_the_engine_is_a_sentence_and_the_chat_goes_on(monkeypatch, capsys):
    _, out, err = converse(monkeypatch, capsys, "fail", "/nonsense", "fine")
    assert err.splitlines() == [
        "kgpt: The model is gone.",
        "kgpt: There is no command /nonsense; /help lists the commands.",
    ]
    assert out.endswith("FINE\n")


def test_a_conversation_goes_on_beyond_the_context(monkeypatch, capsys):
    """The oldest turns are left out whole, the system prompt is kept, and it says how many."""
    engine, state = Echo(), ChatState(SamplingConfig(max_tokens=20), system="Be brief.")
    lines = [f"question {i}" for i in range(6)]
    state, out, err = converse(monkeypatch, capsys, *lines, state=state, engine=engine)
    assert out.splitlines() == [line.upper() for line in lines]
    assert len(state.messages) == 12  # nothing is lost from the conversation
    for prompt in engine.prompts:
        parts = prompt.split("|")[:-1]
        assert parts[0] == "Be brief." and len(prompt) <= 80
        assert parts[1::2] == lines[lines.index(parts[1]) :][: len(parts) // 2]
    assert err.splitlines() == [
        f"The {count} oldest messages exceed the model's context; left out." for count in (2, 4, 6)
    ]


def test_a_message_longer_than_the_context_is_taken_back(monkeypatch, capsys):
    state = ChatState(SamplingConfig())
    state, out, err = converse(monkeypatch, capsys, "hello", "x" * 120, "fine", state=state)
    assert out == "HELLO\nFINE\n" and [m["content"] for m in state.messages][2] == "fine"
    assert "The message has 121 tokens with the system prompt, but the model's context is" in err
    chat = TerminalChat(Echo(), state)
    state.add("user", "y" * 120)
    with pytest.raises(UsageError, match="context is 100"):
        chat._answer()
    assert chat.draft == "y" * 120 and len(state.messages) == 4


def test_retry_answers_the_last_question_again(monkeypatch, capsys):
    state, out, _ = converse(monkeypatch, capsys, "hi", "/retry")
    assert out == "HI\nHI\n" and len(state.messages) == 2


@pytest.mark.parametrize("line", ["/set presence_penalty -1", "/set presence-penalty=-1",
                                  "/set presence_penalty=-1"])  # fmt: skip
def test_options_are_set_in_every_usual_spelling(line):
    state = state_of()
    assert command(state, line) == ["presence_penalty is -1.0."]
    assert state.sampling.presence_penalty == -1


def test_a_bad_option_changes_nothing():
    state = state_of()
    with pytest.raises(UsageError, match="cannot be parsed"):
        command(state, "/set stop [")
    with pytest.raises(UsageError, match="temperature"):
        command(state, "/set temperature -3")
    with pytest.raises(UsageError, match="temperature"):
        command(state, "/set temprature 3")
    assert state.sampling == SamplingConfig()


def test_undo_clear_and_system_change_the_prompt():
    state = state_of(*TURNS, *TURNS, system="Be brief.")
    command(state, "/undo")
    assert state.prompt() == [{"role": "system", "content": "Be brief."}, *TURNS]
    command(state, "/system")
    assert state.prompt() == TURNS
    command(state, "/clear")
    assert state.prompt() == []
    with pytest.raises(UsageError, match="no question to answer"):
        command(state, "/retry")


def test_a_saved_conversation_is_loaded_again(tmp_path):
    file = tmp_path / "chat.json"
    state = state_of(*TURNS, system="Be brief.")
    command(state, f"/save {file}")
    loaded = state_of()
    assert command(loaded, f"/load {file}") == ["Loaded 2 messages."]
    assert loaded.prompt() == state.prompt()
    assert command(loaded, "/history")[0] == "system: Be brief."


def test_a_file_is_not_replaced_unless_asked(tmp_path):
    file = tmp_path / "thesis.md"
    file.write_text("It was Monday.")
    with pytest.raises(UsageError, match="exists; choose another name, or replace it with /save!"):
        command(state_of(*TURNS), f"/save {file}")
    assert file.read_text() == "It was Monday."
    command(state_of(*TURNS), f"/save! {file}")
    assert "Hello!" in file.read_text()


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "Expecting"), ("{}", "no messages"), ("3", "must be a list"),
     ('[{"role": "x"}]', "must be a list"),
     ('[{"role": "poet", "content": ""}]', "role 'poet' is unknown"), (b"\xff\xfe\x00", "codec")],
)  # fmt: skip
def test_a_file_that_is_no_conversation_is_refused(tmp_path, content, reason):
    file = tmp_path / "a.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    state = state_of(*TURNS)
    with pytest.raises(UsageError, match=reason):
        command(state, f"/load {file}")
    assert state.messages == TURNS
    with pytest.raises(KgptError, match="Could not read"):
        command(state, f"/load {tmp_path}")


def test_content_that_is_null_or_in_parts_is_text(tmp_path):
    file = tmp_path / "a.json"
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]
    messages = [{"role": "user", "content": None}, {"role": "assistant", "content": parts}]
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(messages).encode())
    state = state_of()
    command(state, f"/load {file}")
    assert [message["content"] for message in state.messages] == ["", "Hello!"]


def test_help_names_every_command():
    assert set(COMMANDS) - {"exit", "help"} <= {
        word.strip("/") for word in HELP.split() if word.startswith("/")
    }


def test_the_adapter_that_answers_is_changed(monkeypatch, capsys):
    engine, state = Echo(), ChatState(SamplingConfig(), adapters=["a", "b"], adapter="a")
    lines = ("one", "/adapter b", "two", "/adapter c", "three", "/adapter", "four")
    _, _, err = converse(monkeypatch, capsys, *lines, state=state, engine=engine)
    assert engine.adapters_used == ["a", "b", "b", None]
    assert "There is no adapter 'c'; loaded: a, b." in err
