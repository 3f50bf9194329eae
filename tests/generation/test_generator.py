"""TextGenerator: concurrent callers, one engine thread, whole characters, errors, closing."""

import queue
import threading
import time

import pytest

from kgpt.config import ModelConfig, SamplingConfig
from kgpt.errors import QueueFull, UsageError
from tests.generation.models import KINDS

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from kgpt import GPT
    from kgpt.checkpoints.pretrained import save_model
    from kgpt.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.of_bytes()
    config = ModelConfig(**{**KINDS["llama"], "vocab_size": tokenizer.vocab_size})
    path = tmp_path_factory.mktemp("model")
    save_model(GPT(config, seed=5), path, tokenizer)
    return path


@pytest.fixture(scope="module")
def engine(folder):
    from kgpt.generation.generator import TextGenerator

    with TextGenerator(folder, max_num_seqs=4, max_queue=8) as made:
        made.warm_up()
        yield made


def config(count=20, **settings):
    return SamplingConfig(**{"temperature": 0.8, "seed": 3, "max_tokens": count} | settings)


def test_streamed_pieces_join_to_the_whole(engine):
    pieces = list(engine.stream("To be", config(30)))
    whole = engine.generate("To be", config(30))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert (
        engine.tokenizer.decode(whole.token_ids, skip_special_tokens=True, continues=True)
        == whole.text
    )
    assert [piece.finish_reason for piece in pieces][-1] == whole.finish_reason
    assert whole.usage.completion_tokens == len(whole.token_ids) <= 30
    assert whole.usage.prompt_tokens == 5


def test_the_same_seed_gives_the_same_text_in_any_batch(engine):
    alone = engine.generate("O", config(16, seed=7)).text
    texts = engine.generate_batch(["O"] * 12, config(16, seed=0))
    assert texts[7].text == alone
    assert len({text.text for text in texts}) > 6


def test_a_stop_string_ends_the_text_and_is_not_in_it(engine):
    free = engine.generate("Once", config(40)).text
    stop = free[10:13]
    got = engine.generate("Once", config(40, stop=[stop, "never met"]))
    assert got.text == free[: free.index(stop)]
    assert (got.finish_reason, got.stop) == ("stop", stop)


def test_a_bad_word_is_never_generated(engine):
    free = engine.generate("Once", config(40)).text
    word = free[8:10]
    assert word not in engine.generate("Once", config(40, bad_words=[word])).text


def test_reported_tokens_are_the_text(engine):
    got = engine.generate("Once", config(12), top_logprobs=5)
    assert len(got.tokens) == len([i for i in got.token_ids if i not in engine.tokenizer.stop_ids])
    spelled = b"".join(token.bytes for token in got.tokens).decode("utf-8", "replace")
    assert spelled == got.text
    assert all(len(token.top_logprobs) == 5 for token in got.tokens)
    assert all(
        token.top_logprobs[0].logprob >= token.top_logprobs[4].logprob for token in got.tokens
    )


def test_the_second_turn_remembers_the_first(engine):
    first = "A long beginning that stays. " * 1
    engine.generate(first, config(4))
    assert engine.generate(first + "And more.", config(4)).usage.cached_tokens >= len(first) - 1


def test_cancelling_frees_the_slot(engine):
    events = queue.SimpleQueue()
    handle = engine.submit("x", config(5000, temperature=1, min_tokens=5000), events.put)
    events.get(timeout=30)
    handle.cancel()
    assert handle.done.wait(30)
    last = None
    while not events.empty():
        last = events.get()
    assert last.finish_reason == "cancelled"
    assert last.usage.completion_tokens < 5000
    assert engine.stats().active == 0


def test_warming_leaves_texts_under_way_alone(engine):
    want = engine.generate("Once", config(60)).text
    events = queue.SimpleQueue()
    engine.submit("Once", config(60), events.put)
    engine.warm_up()
    pieces = [events.get(timeout=60)]
    while pieces[-1].finish_reason is None:
        pieces.append(events.get(timeout=60))
    assert "".join(piece.text for piece in pieces) == want


def test_a_deadline_ends_a_text(engine):
    got = engine.generate("x", config(10**6, min_tokens=10**6), timeout=0.3)
    assert got.finish_reason == "deadline"
    assert got.usage.completion_tokens < 10**6


def test_a_full_queue_refuses(engine):
    slots_and_queue = 4 + 8
    handles = [
        engine.submit("x", config(3000, min_tokens=3000), lambda event: None)
        for _ in range(slots_and_queue)
    ]
    with pytest.raises(QueueFull, match="More than 12"):
        engine.submit("x", config(3), lambda event: None)
    for handle in handles:
        handle.cancel()
    assert all(handle.done.wait(30) for handle in handles)


@pytest.mark.portable
def test_a_batch_larger_than_an_engine_without_queue_is_generated(folder):
    from kgpt.generation.generator import TextGenerator

    with TextGenerator(folder, max_num_seqs=2, max_queue=0) as made:
        options = config(4, seed=3)
        want = [made.generate("Hi", options.model_copy(update={"seed": 3 + i})) for i in range(5)]
        got = made.generate_batch(["Hi"] * 5, options)
        assert [one.text for one in got] == [one.text for one in want]
        assert len(made.score(["Hi"] * 5)) == 5


def test_callers_on_many_threads_each_get_their_own_text(engine):
    want = {seed: engine.generate("Hi", config(12, seed=seed)).text for seed in range(6)}
    got = {}

    def ask(seed):
        got[seed] = engine.generate("Hi", config(12, seed=seed)).text

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == want


def test_an_empty_prompt_begins_a_document(engine):
    assert engine.generate("", config(3)).usage.prompt_tokens == 1


def test_ids_outside_the_vocabulary_are_refused(engine):
    with pytest.raises(UsageError):
        engine.generate([99999], config(3))


def test_an_error_of_the_model_is_raised_and_the_next_request_succeeds(engine, monkeypatch):
    from kgpt.generation.completion import GenerationFailed

    scheduler = engine.engine._scheduler
    broken = scheduler.runner
    monkeypatch.setattr(broken, "decode", lambda steps: 1 / 0)
    with pytest.raises(GenerationFailed, match="division"):
        engine.generate("x", config(3))
    assert engine.generate("x", config(3)).text


def test_closing_ends_what_runs(folder):
    from kgpt.generation.generator import TextGenerator

    engine, events = TextGenerator(folder), queue.SimpleQueue()
    handle = engine.submit("x", config(10**6, min_tokens=10**6), events.put)
    time.sleep(0.2)
    engine.close()
    assert handle.done.wait(10)


def test_prompts_are_scored_with_the_logprobs_of_generation(engine):
    whole = engine.generate("To be", config(6, temperature=0), top_logprobs=3)
    ids = [*engine.tokenizer.encode("To be"), *whole.token_ids]
    text, alone = engine.score(["To be", ids], top_logprobs=3)[::-1]
    assert text.logprobs[0] is text.top_logprobs[0] is None
    assert text.logprobs[-6:] == pytest.approx([token.logprob for token in whole.tokens], abs=1e-4)
    best = [top[0][0] for top in text.top_logprobs[-6:]]
    assert best == whole.token_ids and all(len(top) == 3 for top in text.top_logprobs[1:])
    assert "".join(alone.tokens) == "To be" and alone.total == pytest.approx(
        sum(text.logprobs[1:5])
    )


def test_texts_are_embedded_alike_in_any_batch(engine):
    texts = ["a", "To be, or not", "b" * 40, "to be"] * 5
    together = engine.embed(texts)
    assert together.shape == (20, engine.config.hidden_dim)
    assert together[1] == pytest.approx(engine.embed(["To be, or not"])[0], abs=1e-4)
    assert abs(together[0] - together[1]).max() > 0.01
    with pytest.raises(UsageError, match="list"):
        engine.embed("one text")
