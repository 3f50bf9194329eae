"""The client and the server's process: what goes well, and every way it can go wrong."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.config import SamplingConfig
from kgpt.errors import KgptError
from kgpt_tui.models.client import MALFORMED, Client, ServerError, decode_chunk
from kgpt_tui.models.server import Server, wait_until_ready
from tests.tui.fake_server import ANSWER, FakeServer

FAKE = Path(__file__).parent / "fake_server.py"
SAMPLING = SamplingConfig()
HELLO = [{"role": "user", "content": "hello"}]


def with_server(script, **options):
    async def go():
        async with FakeServer(**options) as fake:
            client = Client(fake.address, "k")
            try:
                return await script(fake, client)
            finally:
                await client.close()

    return asyncio.run(go())


def test_a_chat_is_streamed_with_its_tokens():
    async def script(fake, client):
        chunks = [chunk async for chunk in client.stream_chat(HELLO, SAMPLING)]
        assert "".join(chunk.text for chunk in chunks) == ANSWER
        tokens = [token for chunk in chunks for token in chunk.tokens]
        assert "".join(token.text for token in tokens) == ANSWER
        assert tokens[0].top_logprobs[0].sampling_prob is not None
        assert chunks[-2].finish_reason == "stop" and chunks[-1].usage.prompt_tokens == 12
        assert fake.requests[0]["temperature"] == SAMPLING.temperature

    with_server(script)


def test_every_sampling_field_is_sent():
    async def script(fake, client):
        sampling = SamplingConfig(temperature=0.5, top_k=3, stop=["x"], logit_bias={4: 1.0}, seed=1)
        async for _ in client.stream_text("a", sampling):
            pass
        sent = fake.requests[0]
        assert {k: sent[k] for k in sampling.model_dump()} == json.loads(sampling.model_dump_json())

    with_server(script)


def test_health_models_and_next_tokens():
    async def script(fake, client):
        fake.warming = 1
        assert (await client.health()).progress == (1, 4)
        assert (await client.health()).status == "ready"
        assert (await client.model()).parameters == 1_200_000
        assert await client.ids(HELLO) == [0]
        assert (await client.next_tokens("a", SAMPLING))[0].text == " moon"

    with_server(script)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("die", "closed the connection"),
        ("garbage", "is malformed"),
        ("refuse", "temperature is too high"),
        ("not json", "is malformed|closed the connection"),
    ],
)
def test_a_failing_server_is_one_kind_of_error(fault, said):
    async def script(fake, client):
        fake.fault = fault
        with pytest.raises(ServerError, match=said):
            async for _ in client.stream_chat(HELLO, SAMPLING):
                pass

    with_server(script)


def test_a_wrong_key_says_what_to_do():
    async def script(fake, client):
        with pytest.raises(ServerError, match="--api-key-file"):
            await client.model()

    with_server(script, key="another")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "nonsense", "ftp://x", "http://[", ""])
def test_no_server_is_a_sentence(address):
    async def go():
        with pytest.raises(ServerError):
            await Client(address).health()

    asyncio.run(go())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "content", "logprobs", "text", "usage", "error"]),
            inner,
        )
    ),
)


@given(st.dictionaries(st.sampled_from(["choices", "usage", "error"]), JSON))
def test_whatever_an_event_holds_it_is_read_or_refused(body):
    with contextlib.suppress(ServerError, *MALFORMED):  # MALFORMED becomes a ServerError
        assert isinstance(decode_chunk(body).text, str)


def model_directory(folder: Path) -> str:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    return str(folder / "model")


def test_an_own_server_is_started_warmed_and_ended(tmp_path):
    async def go():
        server, said = Server([sys.executable, str(FAKE)]), []
        client = await server.start(model_directory(tmp_path), said.append)
        assert "compiling 1 of 4" in said
        assert (await client.model()).id == "fake"  # so its key was the right one
        folder, process = server._folder, server._process
        assert (folder / "key").stat().st_mode & 0o077 == 0
        await server.stop()
        assert not folder.exists() and process.returncode is not None

    asyncio.run(go())


def test_a_server_that_ends_at_once_is_told_with_its_last_words(tmp_path):
    code = "import sys; print('kgpt: The model is damaged.', file=sys.stderr); sys.exit(1)"

    async def go():
        server = Server([sys.executable, "-c", code])
        with pytest.raises(KgptError, match="The model is damaged"):
            await server.start(model_directory(tmp_path), lambda said: None)
        assert server._folder is None

    asyncio.run(go())


def test_a_model_that_is_not_there_starts_nothing(tmp_path):
    async def go():
        with pytest.raises(KgptError, match="no run"):
            await Server(["false"]).start("nowhere", lambda said: None)

    asyncio.run(go())


def test_waiting_ends_when_the_server_is_draining():
    class Draining(Client):
        async def health(self):
            from kgpt_tui.models.server_info import Health

            return Health("draining")

    with pytest.raises(ServerError, match="shutting down"):
        asyncio.run(wait_until_ready(Draining("http://x"), lambda said: None))


def test_a_start_that_is_cancelled_leaves_no_process(tmp_path):
    async def go():
        server = Server([sys.executable, "-c", "import time; time.sleep(60)"])
        task = asyncio.create_task(server.start(model_directory(tmp_path), lambda said: None))
        while server._process is None:
            await asyncio.sleep(0.01)
        pid = server._process.pid
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    asyncio.run(go())


KILLED = """
import asyncio, sys
from kgpt_tui.models.server import Server
async def go():
    server = Server([sys.executable, "-c", "import time; time.sleep(60)"])
    task = asyncio.create_task(server.start(sys.argv[1], lambda said: None))
    while server._process is None:
        await asyncio.sleep(0.01)
    print(server._process.pid, flush=True)
    await task
asyncio.run(go())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_an_app_that_is_killed_takes_its_server_along(tmp_path):
    app = subprocess.Popen(
        [sys.executable, "-c", KILLED, model_directory(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    pid = int(app.stdout.readline())
    app.kill()
    app.wait()
    for _ in range(2000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "Z":  # dead, and nobody there to bury it
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    pytest.fail("the server outlived the app")
