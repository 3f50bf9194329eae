"""A small model, to be exported."""

from kgpt.config import SamplingConfig
from kgpt.text.tokenizer import Tokenizer
from tests.tiny import write_tiny_model

TEXT = (
    "the king and queen of a far land said to him: “I'll see you, won't I?” naïve 🙂 12 345 "
    "Once upon a time,\n\nthere was\ta small dog. To be or not to be; that is it!\n"
)
WORDS = TEXT.split(" ")
SHAPE = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "max_length": 48}


def make_model(folder, **shape):
    """A model directory whose untrained model nevertheless has strong opinions."""
    tokenizer = Tokenizer.train_bpe(WORDS * 5, vocab_size=400)
    options = {"initializer_range": 0.3} | SHAPE | shape
    return write_tiny_model(folder, "gpt2", tokenizer, SamplingConfig(temperature=0), **options)
