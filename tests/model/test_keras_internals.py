"""Private attributes of Keras are used in `kgpt.backend.keras_internals` alone."""

import re
from pathlib import Path

import kgpt

ROOT = Path(kgpt.__file__).parent
ALLOWED = ROOT / "backend" / "keras_internals.py"
PRIVATE = re.compile(
    r"\._(learning_rate|iterations|jax_state|jax_state_synced|untrack_variable|track_variables"
    r"|tracker|loss_tracker|compile_metrics|compile_loss|model_variables_moving_average"
    r"|trainable_variables|non_trainable_variables)\b"
)


def test_no_other_file_touches_a_private_attribute_of_keras():
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for folder in ("backend", "model", "training", "generation", "checkpoints", "export")
        for file in sorted((ROOT / folder).rglob("*.py"))
        if file != ALLOWED
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if re.search(PRIVATE, line)
    ]
    assert found == []


def test_the_file_names_the_version_it_was_checked_on():
    import keras

    assert keras.__version__ in ALLOWED.read_text()
