"""Ids equal those of `transformers`: for fuzzed strings, and for conversations in many layouts."""

import json
import random

import pytest

transformers = pytest.importorskip("transformers")

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402
from tokenizers import Tokenizer as Inner  # noqa: E402

from kgpt.text.chat_template import load_chat_template  # noqa: E402
from kgpt.text.tokenizer import Tokenizer  # noqa: E402
from kgpt.text.tokenizer_files import QWEN2_PATTERN  # noqa: E402
from tests.peers.templates import SPECIAL, TEMPLATES  # noqa: E402

ALPHABETS = [
    lambda r: chr(r.randrange(32, 127)), lambda r: chr(r.randrange(0, 32)),
    lambda r: chr(r.randrange(0x80, 0x3000)), lambda r: chr(r.randrange(0x3000, 0xD800)),
    lambda r: chr(r.randrange(0xE000, 0x10000)), lambda r: chr(r.randrange(0x10000, 0x110000)),
    lambda r: r.choice("😀👩‍👩‍👧🏳️‍🌈🇩🇪👍🏽"), lambda r: r.choice("́̀̂̈̃") * r.randrange(1, 4),
    lambda r: r.choice([" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u2028", "\u3000", "\u200b"]),
    lambda r: " " * r.randrange(1, 40), lambda r: r.choice(["'s", "'LL", "n't", "don't", "12345"]),
    lambda r: r.choice(["the", " world", "Hello", " and", "ing"]),
    lambda r: r.choice(SPECIAL), lambda r: r.choice(["<|", "|>", "<s", "im_end", "<"]),
]  # fmt: skip
WORDS = [
    "the cat sat on the mat.",
    "Hello world, it's a fine day; don't you think so?",
    "naïve café",
]


def fuzzed(count, seed=0):
    rng = random.Random(seed)
    for _ in range(count):
        pools = rng.choices(ALPHABETS, k=rng.randrange(1, 4))
        yield "".join(rng.choice(pools)(rng) for _ in range(rng.randrange(0, 30)))


def corpus():
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=20)) + text for text in fuzzed(300, 9)]


def train(pre_tokenizer, normalizer=None):
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizer
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    if normalizer is not None:
        inner.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator(corpus(), trainer)
    return inner


def byte_level(regex=True):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)


def llama3(inner):
    """A text begins with <s>, as Llama 3's do with its own token."""
    inner.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
            ),
        ]
    )
    return inner


def sentence_piece():
    """Llama 2's kind: spaces as U+2581, unknown characters as bytes."""
    inner = Inner(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", *SPECIAL, *spelled], show_progress=False
    )
    inner.train_from_iterator(WORDS * 20, trainer)
    state = json.loads(inner.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] not in spelled]
    return Inner.from_str(json.dumps(state))


def split_digits():
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level()])


KINDS = {
    "gpt2": lambda: train(byte_level()),
    "smollm2": lambda: train(split_digits()),
    "qwen2": lambda: train(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"), byte_level(False)]
        ),
        normalizers.NFC(),
    ),
    "llama3": lambda: llama3(train(byte_level())),
    "llama2": sentence_piece,
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    KINDS[request.param]().save(str(path / "tokenizer.json"))
    write_config(path)
    return path


def write_config(path, **values):
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "clean_up_tokenization_spaces": False, **values,
    }  # fmt: skip
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    (path / "config.json").write_text('{"model_type": "llama", "eos_token_id": [1, 7]}')


def test_ids_of_fuzzed_strings_are_equal(folder):
    ours = Tokenizer.load(folder)
    peer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = list(fuzzed(10_000))
    expected = peer(texts, add_special_tokens=False)["input_ids"]
    for text, mine, other in zip(
        texts, ours.encode_batch(texts, allow_special=True), expected, strict=True
    ):
        assert mine == other, text
    whole = peer("Hello world")["input_ids"]
    assert ours.bos_ids + ours.encode("Hello world") == whole
    assert ours.stop_ids == {1, 7, ours.token_to_id("</s>")}


@pytest.mark.parametrize("kind", ["GPT2", "Qwen2"])
def test_vocab_and_merges_give_the_same_ids(kind, tmp_path):
    inner = KINDS[kind.lower()]()
    inner.model.save(str(tmp_path))
    added = {str(i): {"content": token, "special": True, "normalized": False}
             for i, token in enumerate(SPECIAL)}  # fmt: skip
    values = {"tokenizer_class": f"{kind}Tokenizer", "added_tokens_decoder": added}
    write_config(tmp_path, **values, unk_token="<|endoftext|>")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind.lower()}))
    ours = Tokenizer.load(tmp_path)
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = list(fuzzed(10_000, 1))
    expected = peer(texts, add_special_tokens=False)["input_ids"]
    for text, mine, other in zip(
        texts, ours.encode_batch(texts, allow_special=True), expected, strict=True
    ):
        assert mine == other, text


SYSTEM = {"role": "system", "content": " Be brief.\n"}
ASK = {"role": "user", "content": "What is 1 < 2? naïve 😀\n\n  "}
ANSWER = {"role": "assistant", "content": "  True, <b>indeed</b>. "}
CHATS = {
    "one": [ASK],
    "three": [ASK, ANSWER, {"role": "user", "content": "Why?"}],
    "system": [SYSTEM, ASK, ANSWER],
}


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_conversations_are_laid_out_alike(name, chat, folder):
    write_config(folder, chat_template=TEMPLATES[name])
    if name == "mistral" and chat == "system":
        return
    ours = load_chat_template(Tokenizer.load(folder))
    peer = transformers.AutoTokenizer.from_pretrained(folder)
    messages = CHATS[chat]
    for reply in (False, True):
        expected = peer.apply_chat_template(
            messages, add_generation_prompt=reply, return_dict=False
        )
        ids, mask = ours.encode(messages, add_generation_prompt=reply)
        assert ids == expected and len(mask) == len(ids)
    open_end = [*messages, {"role": "assistant", "content": "It is so "}]
    if chat != "system" and name != "generation":
        open_end = messages[:1] + open_end[-1:]
        expected = peer.apply_chat_template(
            open_end, continue_final_message=True, return_dict=False
        )
        assert ours.encode(open_end, continue_final_message=True)[0] == expected
