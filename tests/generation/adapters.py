"""A tiny base model and adapters of it, whose texts all differ."""

import numpy as np

import kgpt
from kgpt.config import SamplingConfig
from tests.tiny import write_tiny_model

FORMS = {
    "first": {"rank": 2, "target_modules": ["q_proj", "down_proj"]},
    "second": {"rank": 3, "alpha": 5.0, "target_modules": ["v_proj", "gate_proj", "o_proj"]},
    "dora": {"rank": 1, "dora": True, "target_modules": ["k_proj", "up_proj"]},
}
LORA = ("first", "second")


def write_base(folder):
    return write_tiny_model(folder, "llama", noise=0.15, max_length=64)


def write_adapter(folder, base, seed=1, **options):
    """Save random adapters of `base`."""
    model = kgpt.GPT.from_pretrained(base)
    kgpt.add_lora(model, **options)
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        shift = rng.normal(0, 0.4, variable.shape).astype("float32")
        variable.assign(variable.numpy() + shift)
    kgpt.save_adapter(model, folder)
    return folder


def write_adapters(folder, base, names=LORA):
    """The folders of adapters of `FORMS`, by name."""
    return {
        name: write_adapter(folder / name, base, seed, **FORMS[name])
        for seed, name in enumerate(names)
    }


def greedy(count=8, **options):
    return SamplingConfig(temperature=0, max_tokens=count, **options)
