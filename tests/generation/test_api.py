"""The Python API: `kgpt.load`, the text generator's options, `GPT.generate`, public names."""

import subprocess
import sys

import numpy as np
import pytest

import kgpt
from kgpt.config import ModelConfig, SamplingConfig
from kgpt.errors import CheckpointError, RunError, UsageError
from tests.generation.models import KINDS, greedy, greedy_without_cache, model_of, prompts

pytestmark = [pytest.mark.backend, pytest.mark.portable]

BOAT = [{"role": "user", "content": "Where is the boat?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from kgpt.checkpoints.pretrained import save_model

    tokenizer = kgpt.Tokenizer.of_bytes()
    config = ModelConfig(**{**KINDS["llama"], "vocab_size": tokenizer.vocab_size})
    path = tmp_path_factory.mktemp("model")
    save_model(kgpt.GPT(config, seed=5), path, tokenizer)
    return path


@pytest.fixture(scope="module")
def generator(folder):
    with kgpt.load(folder, max_num_seqs=2) as made:
        yield made


def test_options_are_keywords_or_a_config_or_both(generator):
    config = SamplingConfig(max_tokens=20, temperature=0.8, seed=7)
    want = generator.generate("ROMEO:", config)
    assert want.usage.completion_tokens <= 20
    keywords = generator.generate("ROMEO:", max_tokens=20, temperature=0.8, seed=7)
    assert keywords.token_ids == want.token_ids
    shorter = generator.generate("ROMEO:", config, max_tokens=5)
    assert shorter.token_ids == want.token_ids[:5]


def test_a_model_continues_texts_as_the_generator_does(generator, folder):
    model, tokenizer = kgpt.GPT.from_pretrained(folder), kgpt.Tokenizer.load(folder)
    options = {"max_tokens": 6, "temperature": 0}
    want = [text + generator.generate(text, **options).text for text in ("ROMEO:", "")]
    assert model.generate("ROMEO:", tokenizer=tokenizer, **options) == want[0]
    assert model.generate(["ROMEO:", ""], tokenizer=tokenizer, **options) == want
    with pytest.raises(UsageError, match="give tokenizer="):
        model.generate("ROMEO:")


def test_a_stream_is_the_completion_in_chunks(generator):
    options = {"max_tokens": 12, "temperature": 0}
    chunks = list(generator.stream("ROMEO:", **options))
    whole = generator.generate("ROMEO:", **options)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [c.finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == whole.finish_reason


def test_a_chat_continues_the_prompt_of_its_template(generator):
    options = {"max_tokens": 6, "temperature": 0}
    ids = generator.chat_template.encode(BOAT, add_generation_prompt=True)[0]
    want = generator.generate(ids[-63:], **options)
    assert len(ids) <= 63
    assert generator.chat(BOAT, **options).token_ids == want.token_ids
    streamed = "".join(chunk.text for chunk in generator.stream_chat(BOAT, **options))
    assert streamed == want.text


def test_a_long_chat_loses_its_oldest_turns_but_not_the_system_message(generator):
    system = {"role": "system", "content": "S"}
    turns = [{"role": role, "content": f"{i}"} for i in range(9) for role in ("user", "assistant")]
    messages = [system, *turns, {"role": "user", "content": "end"}]
    ids = generator.chat_prompt(messages)
    kept = [m for m in (1, 3, 5, 7, 9, 11, 13, 15, 17, 19) if ids == _encoded(generator, m)]
    assert len(ids) < generator.max_context
    assert len(kept) == 1
    longer = _encoded(generator, kept[0] + 2)
    assert kept[0] == 19 or len(longer) >= generator.max_context


def _encoded(generator, newest):
    system = {"role": "system", "content": "S"}
    turns = [{"role": role, "content": f"{i}"} for i in range(9) for role in ("user", "assistant")]
    turns.append({"role": "user", "content": "end"})
    return generator.chat_template.encode([system, *turns[-newest:]], add_generation_prompt=True)[0]


def test_a_bad_option_is_refused_by_its_name(generator):
    with pytest.raises(UsageError, match=r"top_p .* not 3"):
        generator.generate("x", top_p=3)
    with pytest.raises(UsageError, match="did you mean temperature"):
        generator.generate("x", temprature=3)


def test_speculative_decoding_changes_nothing(folder, generator):
    want = generator.generate("to be or not to be", max_tokens=20, temperature=0).token_ids
    for draft_model in ("prompt_lookup", folder):
        with kgpt.load(folder, draft_model=draft_model) as faster:
            got = faster.generate("to be or not to be", max_tokens=20, temperature=0)
        assert got.token_ids == want


def test_load_refuses_what_is_not_there(monkeypatch, folder):
    with pytest.raises(RunError, match="nosuch"):
        kgpt.load("nosuch")
    with pytest.raises(UsageError, match="'cpu' or 'gpu', not 'abacus'"):
        kgpt.load(folder, device="abacus")
    monkeypatch.setattr("kgpt.backend.device", lambda: ("cpu", "CPU"))
    with pytest.raises(UsageError, match="runs on cpu here, not on gpu"):
        kgpt.load(folder, device="gpu")

    def unreachable(name):
        raise CheckpointError(f"Could not download {name}: huggingface.co cannot be reached.")

    monkeypatch.setattr("kgpt.checkpoints.hub.download", unreachable)
    with pytest.raises(CheckpointError, match="nobody/nothing: huggingface.co cannot be reached"):
        kgpt.load("nobody/nothing")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_ids_come_back_in_the_kind_that_was_given(kind):
    from kgpt.generation.keras_api import generate

    model, (first, second) = model_of(kind), prompts(5, 9)
    options = {"max_tokens": 6, "temperature": 0}
    want = [[*prompt, *greedy_without_cache(kind, prompt, 6)] for prompt in (first, second)]
    assert generate(model, first, **options) == want[0]
    assert generate(model, [first, second], **options) == want
    assert generate(model, np.array(first), **options).tolist() == want[0]
    batch = np.array([first, first], "int64")
    assert generate(model, batch, **options).tolist() == [want[0], want[0]]
    import keras

    tensor = generate(model, keras.ops.convert_to_tensor(batch), **options)
    assert keras.ops.is_tensor(tensor)
    assert keras.ops.convert_to_numpy(tensor).tolist() == [want[0], want[0]]


def test_rows_of_an_array_that_end_early_are_padded():
    from kgpt.generation.keras_api import generate

    model, prompt = model_of("llama"), prompts(5)[0]
    new = greedy_without_cache("llama", prompt, 8)
    other = prompts(5, seed=3)[0]
    batch = np.array([prompt, other])
    got = generate(model, batch, 8, eos_token_id=new[2], temperature=0).tolist()
    end = 5 + new.index(new[2]) + 1
    assert got[0][:end] == [*prompt, *new][:end]
    assert set(got[0][end:]) <= {new[2]}
    other_new = greedy_without_cache("llama", other, 8)
    assert got[1][: 5 + 1] == [*other, other_new[0]]


@pytest.mark.parametrize("ids", [np.ones((2, 2, 2), int), np.ones(3), [[1], 2], [["a"]]])
def test_ids_that_are_none_are_refused(ids):
    from kgpt.generation.keras_api import generate

    with pytest.raises(UsageError, match="token_ids must be"):
        generate(model_of("llama"), ids)


def test_an_idle_slot_is_reused_least_recently_used_first():
    from kgpt.generation.scheduler import GenerationJob, Scheduler
    from kgpt.generation.sequence import Request

    scheduler = Scheduler(model_of("llama"), max_num_seqs=4)

    def run(*starts):
        """One request per first token; the slots they ran in."""
        jobs = [GenerationJob(Request([start, 1, 2], greedy(2))) for start in starts]
        scheduler.waiting.extend(jobs)
        scheduler._admit()
        slots = [next(s for s, j in scheduler.active.items() if j is job) for job in jobs]
        scheduler.run()
        return slots

    assert run(10, 11, 12, 13) == [0, 1, 2, 3]
    assert run(10) == [0]  # shares its prefix with slot 0, which is now the newest
    assert run(20) == [1]
    assert run(21) == [2]
    assert run(12) == [3]  # what slot 2 had cached is gone
    assert run(22) == [0]


def test_public_names_are_listed_and_there():
    assert set(dir(kgpt)) == set(kgpt.__all__)
    assert {"load", "GPT", "TextGenerator", "SamplingConfig", "KgptError"} <= set(kgpt.__all__)
    for name in kgpt.__all__:
        assert getattr(kgpt, name) is not None
    with pytest.raises(AttributeError, match="nosuch"):
        kgpt.nosuch  # noqa: B018


def test_a_keras_file_is_read_after_importing_kgpt_alone(tmp_path):
    model = model_of("llama")
    model.save(tmp_path / "book.keras")
    script = (
        "import keras, kgpt\n"
        f"model = keras.saving.load_model({str(tmp_path / 'book.keras')!r})\n"
        "print(type(model).__name__, model.config.vocab_size)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.split()[-2:] == ["GPT", str(model.config.vocab_size)], done.stderr
