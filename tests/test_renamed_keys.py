"""Configuration files with former key names are read; elsewhere the current name is suggested."""

import pytest
import yaml

from kgpt.config import Config, parse_overrides
from kgpt.errors import UsageError

RENAMED = [
    ("train", "clip_norm", "max_grad_norm", 0.5),
    ("train", "clip_norm", "max_grad_norm", 0),
    ("train", "ema", "ema_decay", 0.9),
    ("data", "replies_only", "assistant_only_loss", True),
    ("sampling", "banned", "bad_words", ["foo"]),
]


@pytest.mark.parametrize(("section", "old", "new", "value"), RENAMED)
def test_an_old_key_is_read_from_a_file_under_its_new_name(section, old, new, value, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({section: {old: value}}))
    config = Config.load(str(file))
    assert getattr(getattr(config, section), new) == value
    assert old not in config.to_yaml().split()


def test_a_new_key_wins_over_the_old_one_beside_it(tmp_path):
    for keys in ("ema: 0.5, ema_decay: 0.9", "ema_decay: 0.9, ema: 0.5"):
        (tmp_path / "run.yaml").write_text(f"train: {{{keys}}}")
        assert Config.load(str(tmp_path / "run.yaml")).train.ema_decay == 0.9


@pytest.mark.parametrize(("section", "old", "new", "value"), RENAMED)
def test_outside_files_an_old_key_is_unknown_and_the_new_one_suggested(section, old, new, value):
    with pytest.raises(UsageError) as caught:
        Config.parse({section: {old: value}})
    assert str(caught.value) == f"Unknown key {section}.{old}; did you mean {section}.{new}?"
    flag, meant = (f"--{section}.{name.replace('_', '-')}" for name in (old, new))
    with pytest.raises(UsageError) as caught:
        parse_overrides([flag, "1"])
    assert str(caught.value) == f"Unknown option {flag}; did you mean {meant}?"
