"""Training that is interrupted and resumed, beside training that goes on."""

import kgpt
from kgpt.checkpoints.pretrained import load_tokenizer
from kgpt.training.checkpoint import copy_state, load_checkpoint, write_checkpoint


def losses_resumed(base, add_adapter, ids, folder):
    """The losses of four steps, those of the last two after resuming, and the model at step 2.

    The adapter that `add_adapter` adds to the model in `base` is trained on `ids`; the checkpoint
    is written to `folder`, and the model returned as the logits it had there.
    """

    def compiled():
        model = kgpt.GPT.from_pretrained(base)
        add_adapter(model)
        model.compile(kgpt.AdamW(1e-2), kgpt.NextTokenLoss())
        return model

    def steps(model, count):
        return [float(model.train_on_batch(ids, ids)) for _ in range(count)]

    model = compiled()
    losses = steps(model, 2)
    write_checkpoint(folder, copy_state(model, step=2), load_tokenizer(base))
    logits = kgpt.backend.to_host(model(ids)).copy()
    losses += steps(model, 2)
    resumed = compiled()
    load_checkpoint(folder, resumed)
    return losses, steps(resumed, 2), logits
