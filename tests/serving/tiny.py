"""A model directory small enough for tests, with random weights and the ChatML template."""

from kgpt.config import ModelConfig


def write_tiny_model(folder, **options):
    """Write it to `folder`: two layers, 32 wide, the 256 bytes as tokens, and Llama's shape."""
    from kgpt.checkpoints.pretrained import save_model
    from kgpt.model.gpt import GPT
    from kgpt.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.of_bytes()
    shape = {
        "vocab_size": tokenizer.vocab_size,
        "max_length": 128,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 32,
        "intermediate_dim": 64,
        "position": "rotary",
        "norm": "rms",
        "activation": "swiglu",
        "bias": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_model(GPT(ModelConfig(**shape | options), seed=1), folder, tokenizer)
    return folder
