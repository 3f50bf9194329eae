"""Train a small model a few steps and write it: python train_and_save.py FOLDER.

`KERAS_BACKEND` chooses the backend; run by test_savedmodel.py.
"""

import sys
from pathlib import Path

import keras
import numpy as np

from kgpt.checkpoints.pretrained import save_model
from kgpt.config import ModelConfig
from kgpt.model.gpt import GPT
from kgpt.text.tokenizer import Tokenizer


def main(folder):
    tokenizer = Tokenizer.of_bytes()
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, num_layers=2, num_heads=2, hidden_dim=32, max_length=32
    )
    model = GPT(config, seed=3)
    ids = np.array(tokenizer.encode("the king of the land said: to be or not to be. " * 40))
    rows = ids[: len(ids) // 33 * 33].reshape(-1, 33)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(3e-3), loss=loss)
    model.fit(rows[:, :-1], rows[:, 1:], batch_size=len(rows), epochs=20, verbose=0)
    save_model(model, Path(folder), tokenizer)


main(sys.argv[1])
