"""The sides of the chat: conversations, sampling controls, token inspector, next tokens."""

from __future__ import annotations

from typing import Any

from textual import on, work
from textual.message_pump import MessagePump
from textual.timer import Timer
from textual.widgets import ContentSwitcher

from kgpt.config import SamplingConfig
from kgpt.errors import KgptError, UsageError
from kgpt_tui.chat.composer import Composer
from kgpt_tui.chat.conversation import Message
from kgpt_tui.chat.conversation_list import Entries
from kgpt_tui.chat.message_list import MessageList
from kgpt_tui.chat.message_view import MessageView
from kgpt_tui.chat.sampling_controls import PRESETS, Control, controls, with_preset
from kgpt_tui.chat.sampling_panel import FieldRow, PresetRow, SamplingPanel
from kgpt_tui.chat.session import ChatSession, last_answer
from kgpt_tui.chat.token_colors import Palette
from kgpt_tui.chat.token_panel import Alternatives, NextTokens, TokenPanel
from kgpt_tui.shared.dialogs import InputDialog
from kgpt_tui.shared.text_dialog import TextDialog

Base: Any = MessagePump  # its kind collects `@on` methods

PAUSE_S = 0.25  # without typing, before the next tokens are asked for
ROOM = 110  # columns from which on the sides stand beside the messages


class ChatPanels(Base):
    """Part of the chat screen."""

    session: ChatSession

    def setup_panels(self) -> None:
        self.inspected: Message | None = None
        self.place = 0  # of the token under the inspector's cursor
        self._asking: Timer | None = None

    # -- opening and closing -----------------------------------------------------------------

    @property
    def _settings(self):
        return self.app.settings  # type: ignore[attr-defined]

    def open_panels(self) -> None:
        """As it was left last time, where there is room."""
        roomy = self.app.size.width >= ROOM
        self.set_class(roomy and self._settings.sidebar, "-sidebar")
        panel = self._settings.panel
        self.set_class(roomy and panel != "none", "-panel")
        if panel != "none":
            self.query_one("#panels", ContentSwitcher).current = panel
        self.draw_sampling()

    def close_overlays(self) -> bool:
        """Close what lies over the messages; True if something did."""
        if self.app.size.width >= ROOM or not (
            self.has_class("-sidebar") or self.has_class("-panel")
        ):
            return False
        self.remove_class("-sidebar", "-panel")
        self.query_one(Composer).focus()
        self.draw_tokens()
        return True

    def action_sidebar(self) -> None:
        inside = self.focused is not None and self.focused.id in ("search", "entries")
        if self.has_class("-sidebar") and inside:
            self.remove_class("-sidebar")
            self.query_one(Composer).focus()
        else:
            self.open_sidebar()
            self.query_one(Entries).focus()
        self._remember_panels()

    def open_sidebar(self) -> None:
        if self.app.size.width < ROOM:
            self.remove_class("-panel")
        self.add_class("-sidebar")
        self.call_after_refresh(self.draw_entries)

    def action_search(self) -> None:
        self.open_sidebar()
        self.query_one("#search").focus()

    def action_panel(self, name: str) -> None:
        """Open a panel and go there; close it when it was there already."""
        switcher = self.query_one("#panels", ContentSwitcher)
        inside = self.focused is not None and switcher in self.focused.ancestors
        if self.has_class("-panel") and switcher.current == name and inside:
            self.remove_class("-panel")
            self.query_one(Composer).focus()
        else:
            self._open_panel(name)
            self.query_one(Alternatives if name == "tokens" else FieldRow).focus()
        self._remember_panels()
        self.draw_tokens()
        self.predict()

    def _open_panel(self, name: str) -> None:
        if self.app.size.width < ROOM:
            self.remove_class("-sidebar")
        self.add_class("-panel")
        self.query_one("#panels", ContentSwitcher).current = name
        if name == "tokens" and self.inspected is None:
            answer = self.query_one(MessageList).chosen
            answer = answer or last_answer(self.session.conversation.path)
            if answer is not None and answer.tokens:
                self.inspected, self.place = answer, 0

    def _remember_panels(self) -> None:
        if self.app.size.width < ROOM:
            return
        panel = self.query_one("#panels", ContentSwitcher).current
        self.app.save_settings(  # type: ignore[attr-defined]
            sidebar=self.has_class("-sidebar"), panel=panel if self.has_class("-panel") else "none"
        )

    def action_stop(self) -> None:
        """Escape while an answer is written."""
        self.stop_answer()

    def action_back(self) -> None:
        """Escape: close what lies over the messages; else go between them and the composer."""
        composer, messages = self.query_one(Composer), self.query_one(MessageList)
        if self.close_overlays():
            pass
        elif self.focused is composer:
            if composer.text.startswith("/"):
                composer.clear()
            else:
                messages.focus()
        else:
            if self.inspected is not None:
                self.inspected = None
                self.draw_tokens()
            composer.focus()

    def action_page(self, pages: int) -> None:
        messages = self.query_one(MessageList)
        messages.scroll_relative(y=pages * max(1, messages.size.height - 2), animate=False)

    # -- sampling ----------------------------------------------------------------------------

    def draw_sampling(self) -> None:
        session = self.session
        panel = self.query_one(SamplingPanel)
        panel.show(session.sampling, session.default_sampling)
        panel.show_presets(list(self._presets), self._preset_now())

    @property
    def _presets(self) -> dict[str, dict[str, Any]]:
        return PRESETS | self._settings.presets

    def _preset_now(self) -> str:
        """The name of the preset that the controls stand at, or an empty string."""
        session = self.session
        for name, values in self._presets.items():
            try:
                if (
                    with_preset(session.default_sampling, session.sampling, values)
                    == session.sampling
                ):
                    return name
            except UsageError:
                continue
        return ""

    @on(SamplingPanel.Changed)
    def _sampling_changed(self, event: SamplingPanel.Changed) -> None:
        self._use_sampling(event.sampling)

    def _use_sampling(self, sampling: SamplingConfig) -> None:
        self.session.set_sampling(sampling)
        self.draw_sampling()
        self.predict()

    @on(PresetRow.Chosen)
    def _preset_chosen(self, event: PresetRow.Chosen) -> None:
        self.use_preset(event.name)

    def use_preset(self, name: str) -> None:
        """Set the controls to a preset."""
        if name not in self._presets:
            self.say(f"There is no preset {name}; there are {', '.join(self._presets)}.", "error")
            return
        session = self.session
        try:
            values = self._presets[name]
            self._use_sampling(with_preset(session.default_sampling, session.sampling, values))
        except UsageError as error:
            self.say(str(error), "error")

    def save_preset(self, name: str = "") -> None:
        """Keep the controls as a preset; asks for its name."""
        if name:
            default = self.session.default_sampling.model_dump(mode="json")
            now = self.session.sampling.model_dump(mode="json")
            values = {key: value for key, value in now.items() if value != default[key]}
            presets = self._settings.presets | {name: values}
            self.app.save_settings(presets=presets)  # type: ignore[attr-defined]
            self.draw_sampling()
            self.say(f"Kept as the preset {name}.")
        else:
            ask = InputDialog("Save preset", "A name for these sampling settings.")
            self.app.push_screen(ask, lambda said: self.save_preset(said.strip()) if said else None)

    def action_save_preset(self) -> None:
        self.save_preset()

    def action_forget_preset(self) -> None:
        name = self._preset_now()
        if name in self._settings.presets:
            kept = {k: v for k, v in self._settings.presets.items() if k != name}
            self.app.save_settings(presets=kept)  # type: ignore[attr-defined]
            self.draw_sampling()

    def set_field(self, name: str, text: str) -> None:
        """Set a sampling field from words."""
        known = controls()
        if name not in known:
            raise UsageError(f"There is no sampling field {name}; they are {', '.join(known)}.")
        panel = self.query_one(SamplingPanel)
        if problem := panel.change(name, known[name].read(text)):
            raise UsageError(problem)

    @on(FieldRow.Typed)
    def _typed_field(self, event: FieldRow.Typed) -> None:
        control, panel = event.field, self.query_one(SamplingPanel)

        def problem(text: str) -> str:
            return _problem(panel.sampling, control, text)

        def accept(text: str | None) -> None:
            if text is not None:
                panel.change(control.name, control.read(text))

        title, text = control.name.replace("_", " "), control.written(event.value)
        hint = f"{control.help} ({control.bounds})"
        if control.is_number:
            self.app.push_screen(InputDialog(title, hint, text, problem), accept)
        else:
            self.app.push_screen(TextDialog(title, text, hint, problem), accept)

    # -- tokens ------------------------------------------------------------------------------

    def inspect(self, message: Message, place: int = 0) -> None:
        """Show the tokens of an answer in the inspector."""
        if not message.tokens:
            self.say("Nothing is known about the tokens of this message.", "warning")
            return
        self.inspected, self.place = message, place
        self._open_panel("tokens")
        self.draw_tokens()
        self.query_one(Alternatives).focus()

    @on(MessageView.Chosen)
    def _message_clicked(self, event: MessageView.Chosen) -> None:
        self.query_one(MessageList).choose(event.message)
        if event.token is not None:
            self.inspect(event.message, event.token)

    @on(MessageList.Moved)
    def _message_moved(self) -> None:
        chosen = self.query_one(MessageList).chosen
        if self._tokens_open and chosen is not None and chosen.tokens:
            self.inspected, self.place = chosen, 0
            self.draw_tokens()

    def step_token(self, offset: int) -> None:
        """Go along the answer; called, not messaged, so that quick keys keep their order."""
        if self.inspected is not None:
            self.place = min(max(self.place + offset, 0), len(self.inspected.tokens) - 1)
            self.draw_tokens()

    @on(Alternatives.Recolour)
    def _recolour(self) -> None:
        by = "entropy" if self._settings.colouring == "probability" else "probability"
        self.app.save_settings(colouring=by)  # type: ignore[attr-defined]
        self.draw_tokens()

    @on(Alternatives.OptionSelected, "#alternatives")
    async def _branch(self) -> None:
        chosen, answer = self.query_one(TokenPanel).chosen, self.inspected
        if chosen is None or answer is None or not self._ready():
            return
        try:
            sibling = self.session.branch(answer, self.place, chosen)
        except UsageError as error:
            self.say(str(error), "warning")
            return
        self.inspected, self.place = sibling, len(sibling.tokens) - 1
        await self.answer(sibling)

    @property
    def _tokens_open(self) -> bool:
        current = self.query_one("#panels", ContentSwitcher).current
        return self.has_class("-panel") and current == "tokens"

    def draw_tokens(self) -> None:
        """Colour the inspected answer, and show the token under the cursor."""
        answer = self.inspected if self._tokens_open else None
        if answer is not None and answer not in self.session.conversation.path:
            self.inspected = answer = None
        by = self._settings.colouring
        for view in self.query(MessageView):
            mine = view.message is answer
            palette = Palette.of(self.app.theme_variables, by) if mine else None
            token = self.place if mine else None
            if (view.palette, view.token) != (palette, token):
                view.palette, view.token = palette, token
                view.refresh_text()
        panel = self.query_one(TokenPanel)
        if answer is None or not answer.tokens:
            panel.show(None)
            return
        self.place = min(self.place, len(answer.tokens) - 1)
        panel.show(answer.tokens[self.place], self.place, len(answer.tokens), by)

    # -- what would come next ----------------------------------------------------------------

    def predict(self) -> None:
        """Soon ask for the next tokens, unless something changes before."""
        if self._asking is not None:
            self._asking.stop()
        self._asking = self.set_timer(PAUSE_S, self._predict)

    @work(group="predict", exclusive=True)
    async def _predict(self) -> None:
        view = self.query_one(NextTokens)
        if not self.has_class("-panel") or self.answering is not None:
            return
        if self.session.client is None:
            view.show([], "Load a model to see what it would write.")
            return
        try:
            typed = self.query_one(Composer).text
            view.show(await self.session.next_tokens("" if typed.startswith("/") else typed))
        except KgptError as error:
            view.show([], str(error))


def _problem(sampling: SamplingConfig, control: Control, text: str) -> str:
    try:
        SamplingConfig.parse(sampling.model_dump() | {control.name: control.read(text)})
    except UsageError as error:
        return str(error)
    return ""
