"""The key bar displays the same keys as Textual's own footer, however they change."""

import asyncio
from typing import ClassVar

from textual.app import App
from textual.binding import Binding
from textual.widgets import Footer, Input

from kgpt_tui.shared.key_bar import KeyBar
from kgpt_tui.shared.textual_private import FooterKey, is_key_disabled
from tests.tui.driving import wait_until


class Few(Input):
    BINDINGS: ClassVar = [Binding("f1", "one", "One")]


class Many(Input):
    BINDINGS: ClassVar = [Binding(f"f{n}", f"many({n})", f"Many {n}") for n in range(1, 8)]


class Screenful(App[None]):
    BINDINGS: ClassVar = [Binding("f9", "rare", "Rare")]
    allowed: bool | None = True

    def compose(self):
        yield Few()
        yield Many()
        yield KeyBar()
        yield Footer()

    def check_action(self, action, parameters):
        return self.allowed if action == "rare" else True


def displayed_keys(bar):
    keys = [key for key in bar.query(FooterKey) if key.display]
    return sorted((k.key, k.key_display, k.description, k.action, is_key_disabled(k)) for k in keys)


def test_it_shows_what_the_footer_shows():
    async def script():
        app = Screenful()
        async with app.run_test(size=(200, 20)) as pilot:
            seen = []
            for widget, allowed in ((Few, True), (Many, True), (Few, None), (Many, False)):
                app.allowed = allowed
                app.query_one(widget).focus()
                app.refresh_bindings()
                bar, footer = app.query_one(KeyBar), app.query(Footer).last()

                def agree(bar=bar, footer=footer):
                    return displayed_keys(footer) not in seen and displayed_keys(
                        bar
                    ) == displayed_keys(footer)

                await wait_until(pilot, agree, f"the keys of {widget.__name__}, {allowed}")
                seen.append(displayed_keys(bar))

    asyncio.run(script())


def test_a_removed_bar_is_not_updated(monkeypatch):
    async def script():
        app = Screenful()
        async with app.run_test() as pilot:
            app.query_one(Many).focus()
            await pilot.pause(0.1)
            bar = app.query_one(KeyBar)
            await bar.remove()
            mounted = []
            monkeypatch.setattr(bar, "mount", lambda *keys, **_: mounted.extend(keys))
            bar._update_keys()
            assert not mounted and not bar.query(FooterKey)

    asyncio.run(script())
