"""Model cards: what they say, that the hub can read them, and that an edited one is kept."""

import huggingface_hub
import pytest

from kgpt.checkpoints.convert import copy_model, quantize_model
from kgpt.checkpoints.importers import import_from
from kgpt.checkpoints.model_card import (
    CARD,
    ModelCard,
    copy_card,
    describe_model,
    describe_training,
    is_edited,
    with_license,
    write_card,
)
from kgpt.checkpoints.pretrained import save_pretrained
from kgpt.config import Config
from kgpt.files import write_json
from kgpt.formatting import count
from kgpt.runs import Run, RunData
from tests.tiny import tiny_config, tiny_model, write_tiny_model

MINE = "---\nlicense: mit\n---\n# Mine\n"


@pytest.fixture
def checkpoint(tmp_path):
    """Step 20 of a run with four validations, one of them later, on data from two sources."""
    run = Run(tmp_path / "runs" / "stories")
    folder = write_tiny_model(run.checkpoint_path(20), "gpt2")
    config = Config.parse({"train": {"max_steps": 40, "batch_size": 3, "grad_accumulation": 2}})
    run.write_config(config.to_yaml())
    data = tmp_path / "home" / "set"
    write_json(data / "manifest.json", {"sources": ["/home/me/secret.txt", "hf:owner/texts"]})
    described = {"sha256": "", "tokenizer_sha256": "", "vocab_size": 259}
    run.write_data(RunData(path=str(data), train_tokens=12345, val_tokens=678, **described))
    for step in (5, 10, 20, 30):
        row = {"step": step, "loss": 40 / step, "val_loss": 50 / step, "val_perplexity": 9.0}
        run.append("metrics", row | {"val_bits_per_byte": 1.5})
    return folder


def test_a_checkpoint_tells_of_its_run(checkpoint):
    text = describe_model(checkpoint, tiny_config()).render()
    for part in ("# stories", "12,345 tokens", "secret.txt, hf:owner/texts", "| 20 of 40 |",
                 "| sequences per step | 6 |", "| 20 | 2.0000 | 2.5000 | 9.00 |",
                 "1.5000 bits per byte", "from transformers import pipeline"):  # fmt: skip
        assert part in text
    assert "/home/me" not in text and "| 30 |" not in text
    data = huggingface_hub.ModelCard(text).data
    assert (data.license, data.library_name) == ("unknown", "transformers")
    assert data.datasets == ["owner/texts"] and data.pipeline_tag == "text-generation"


def test_a_classifier_says_what_its_labels_are(checkpoint):
    config = tiny_config(tie_embeddings=False)
    text = ModelCard("moods", config, labels=("calm", "a|b")).render()
    tied = tiny_config().num_parameters() + 2 * config.hidden_dim
    for part in (f"A GPT with {count(tied)} parameters", "It classifies texts by 2 labels",
                 "| labels | calm, a\\|b |", "kgpt classify predict --model DIR --text",
                 'pipeline("text-classification", model="DIR")'):  # fmt: skip
        assert part in text
    assert huggingface_hub.ModelCard(text).data.pipeline_tag == "text-classification"
    assert "generat" not in text.partition("kgpt keeps it")[2]
    run = Run(checkpoint.parent.parent)
    changes = {"classification.data": ["/home/me/moods.csv"], "finetune.model": "owner/base"}
    run.write_config(Config.load(str(run.path / "run.yaml"), changes).to_yaml())
    run.append("metrics", {"step": 20, "val_loss": 1.0, "val_accuracy": 0.5, "val_macro_f1": 0.25})
    training = describe_training(run, 20)
    text = ModelCard("moods", config, labels=("a", "b"), training=training).render()
    assert "| step | training loss | validation loss | accuracy | macro F1 |" in text
    assert "validation loss 1.0000, accuracy 0.5000, macro F1 0.2500" in text
    assert "Sources: moods.csv." in text and "perplexity" not in text
    assert "made from owner/base" in describe_model(checkpoint, config).render()


def test_long_curves_are_thinned_but_keep_their_end(checkpoint):
    run = Run(checkpoint.parent.parent)
    for step in range(100, 200):
        run.append("metrics", {"step": step, "val_loss": 1.0})
    checkpoint.rename(run.checkpoint_path(199))
    text = describe_model(run.checkpoint_path(199), tiny_config()).render()
    assert text.count("| 1.0000 |") <= 12 and "| 199 |" in text


def test_only_an_unchanged_card_is_replaced(tmp_path):
    card = ModelCard("a", tiny_config())
    write_card(tmp_path, card)
    assert not is_edited(tmp_path / CARD) and not is_edited(tmp_path / "none.md")
    text = (tmp_path / CARD).read_text()
    for changed in (text + "More.\n", text.replace("unknown", "mit"), MINE):
        (tmp_path / CARD).write_text(changed)
        assert is_edited(tmp_path / CARD)
        write_card(tmp_path, card, kept=tmp_path)
        assert (tmp_path / CARD).read_text() == changed


def test_saving_keeps_what_was_edited(tmp_path):
    model = tiny_model()
    model.name_or_path = "owner/base@main"
    save_pretrained(model, tmp_path / "out")
    card = huggingface_hub.ModelCard((tmp_path / "out" / CARD).read_text())
    assert card.data.base_model == "owner/base" and "# out" in card.text
    (tmp_path / "out" / CARD).write_text(MINE)
    save_pretrained(model, tmp_path / "out")
    assert (tmp_path / "out" / CARD).read_text() == MINE


def converted(convert, source, out):
    out.mkdir()
    convert(source, out)
    return (out / CARD).read_text()


def test_conversions_carry_the_card_along(checkpoint, tmp_path):
    text = converted(copy_model, checkpoint, tmp_path / "copied")
    assert "secret.txt" in text and not is_edited(tmp_path / "copied" / CARD)
    assert converted(copy_model, tmp_path / "copied", tmp_path / "again") == text
    small = converted(lambda a, b: quantize_model(a, b, 4), checkpoint, tmp_path / "small")
    assert "stored in int4" in small and "transformers import" not in small
    (checkpoint / CARD).write_text(MINE)
    assert converted(copy_model, checkpoint, tmp_path / "mine") == MINE


def test_an_imported_model_names_its_source(checkpoint, tmp_path):
    (tmp_path / "plain").mkdir()
    write_tiny_model(tmp_path / "plain", "llama")
    text = converted(lambda a, b: import_from(str(a), b), tmp_path / "plain", tmp_path / "out")
    assert "# plain" in text and "made from plain" in text and str(tmp_path) not in text


def test_an_adapter_names_its_base(tmp_path):
    from kgpt import GPT, add_lora, save_adapter

    model = GPT.from_pretrained(write_tiny_model(tmp_path / "base"))
    add_lora(model, rank=2)
    save_adapter(model, tmp_path / "adapter")
    text = (tmp_path / "adapter" / CARD).read_text()
    assert "An adapter" in text and "made from base" in text and str(tmp_path) not in text
    (tmp_path / "merged").mkdir()
    copy_card(tmp_path / "adapter", tmp_path / "merged", model.config)
    assert "An adapter" not in (tmp_path / "merged" / CARD).read_text()


def test_a_license_is_set_once():
    assert with_license(MINE, "cc0-1.0") == "---\nlicense: cc0-1.0\n---\n# Mine\n"
    assert with_license("# Mine\n", "mit") == MINE
