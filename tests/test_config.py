"""The configuration: a bad value gives one sentence that names its key, wherever it comes from."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kgpt.config import (
    Config,
    ModelConfig,
    SamplingConfig,
    TrainConfig,
    did_you_mean,
    options,
    parse_overrides,
    presets,
    read_yaml,
)
from kgpt.errors import UsageError

BAD = [
    ({"train": {"batch_size": 0}}, "train.batch_size should be greater than or equal to 1, not 0."),
    ({"train": {"batch_size": "many"}}, "train.batch_size should be a valid integer"),
    ({"train": {"learning_rate": float("nan")}}, "train.learning_rate should be"),
    ({"train": {"learning_rate": float("inf")}}, "train.learning_rate should be a finite number"),
    ({"train": {"batch_sise": 4}}, "Unknown key train.batch_sise; did you mean train.batch_size?"),
    ({"train": {"zzz": 4}}, "Unknown key train.zzz; the keys are max_steps, batch_size,"),
    ({"trian": {}}, "Unknown key trian; did you mean train?"),
    ({"train": {"optimizer": "adam"}}, "train.optimizer should be 'adamw', 'lion' or 'muon'"),
    ({"train": {"min_learning_rate": 1}}, "train: min_learning_rate 1.0 is above learning_rate"),
    ({"model": {"hidden_dim": 10, "num_heads": 3}}, "model: hidden_dim 10 is not a multiple"),
    ({"model": {"num_kv_heads": 4, "num_heads": 6}}, "model: num_heads 6 is not a multiple of num"),
    (
        {"model": {"position": "rotary", "head_dim": 3}},
        "model: rotary positions need an even head",
    ),
    ({"sampling": {"top_p": 0}}, "sampling.top_p should be greater than 0, not 0."),
    ({"sampling": {"logit_bias": {"-1": 2}}}, "sampling.logit_bias.-1 should be greater than or"),
    ({"sampling": {"stop": [3]}}, "sampling.stop.0 should be a valid string, not 3."),
]


@pytest.mark.parametrize(("values", "sentence"), BAD)
def test_a_bad_value_is_one_sentence_with_its_key(values, sentence):
    with pytest.raises(UsageError) as caught:
        Config.parse(values)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value) and str(caught.value)[-1] in ".?"


@pytest.mark.parametrize(("values", "sentence"), BAD)
def test_a_file_is_refused_with_the_same_sentence(values, sentence, tmp_path):
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UsageError) as caught:
        Config.load(str(tmp_path / "bad.yaml"))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_valid_and_explains_itself(name):
    config = Config.load(name)
    assert Config.parse(yaml.safe_load(config.to_yaml())) == config
    lines = presets()[name].read_text(encoding="utf-8").splitlines()
    comment = [line for line in lines if line.startswith("# ")]
    assert lines[: len(comment)] == comment
    assert "Costs " in " ".join(comment)
    assert comment[-1].startswith("# Data: ")


def test_the_presets_are_those_promised():
    assert set(presets()) == {
        "adapter", "classify", "classify-small", "distill",
        "dora", "dpo", "full", "gpt2", "gpt2-large", "gpt2-medium", "gpt2-xl", "grpo", "ipo", "kto",
        "llama-150m", "llama-tiny", "lora", "orpo", "prefix", "qlora", "shakespeare-char",
        "shakespeare-cpu", "shakespeare-fast", "tinyworld", "tinyworld-stories",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "millions"),
    [("gpt2", 124.44), ("gpt2-medium", 354.82), ("gpt2-large", 774.03), ("gpt2-xl", 1557.61)],
)
def test_gpt2_has_the_parameters_its_paper_counts(name, millions):
    model = Config.load(name).model.model_copy(update={"vocab_size": 50257})
    assert model.num_parameters() / 1e6 == pytest.approx(millions, abs=0.01)


def test_every_option_has_a_description_that_is_a_sentence():
    for section, key, field in options():
        assert field.description, f"{section}.{key}"
        assert field.description[0].isupper() and field.description.endswith("."), key


@given(st.sampled_from([(s, k) for s, k, _ in options()]), st.sampled_from(["  ", "=", " "]))
def test_every_option_can_be_set_from_the_command_line(option, between):
    section, key = option
    default = getattr(getattr(Config.parse({}), section), key)
    flag = f"--{section}.{key.replace('_', '-')}"
    if default is None:
        word = "none"
    else:
        word = default if isinstance(default, str) else json.dumps(default)
    tokens = [f"{flag}={word}"] if between == "=" else [flag, word]
    overrides = parse_overrides(tokens)
    parsed = Config.parse({section: {key: overrides[f"{section}.{key}"]}})
    assert getattr(getattr(parsed, section), key) == default


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (["--train.max-step", "3"], "Unknown option --train.max-step; did you mean --train.max-s"),
        (["--resum"], "Unknown option --resum; did you mean --resume?"),
        (["--qqqqqq"], "Unknown option --qqqqqq; see `kgpt train --help`"),
        (["extra"], "'extra' is not expected here"),
        (["--sampling.stop", "['"], "[' cannot be parsed"),
        (["--sampling.logit-bias", "{3: "], "{3:  cannot be parsed"),
        (["--train.max-steps"], "--train.max-steps needs a value."),
        (["--train.max-steps", "--train.seed", "1"], "--train.max-steps needs a value."),
    ],
)
def test_a_bad_option_is_one_sentence(tokens, sentence):
    with pytest.raises(UsageError) as caught:
        parse_overrides(tokens, ("--resume", "--run"))
    assert str(caught.value).startswith(sentence)


def test_overrides_go_over_the_file():
    config = Config.load("shakespeare-cpu", {"train.max_steps": "7", "model.bias": "true"})
    assert config.train.max_steps == 7
    assert config.model.bias is True
    assert config.model.num_layers == 4  # the rest is the preset's


@pytest.mark.parametrize("section", Config.model_fields)
def test_an_empty_section_of_a_file_is_all_defaults(section, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"{section}:\n")
    assert Config.load(str(tmp_path / "mine.yaml")) == Config()
    changes = {"train.seed": "7", "sampling.seed": "8"}
    assert Config.load(str(tmp_path / "mine.yaml"), changes) == Config.parse(
        {"train": {"seed": 7}, "sampling": {"seed": 8}}
    )


@pytest.mark.parametrize("text", ["- 1", "train: 3", "train: [", "a: {b: 1}\n\tc", "\x00"])
def test_a_file_that_is_no_configuration_is_refused(text, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"config\.yaml") as caught:
        read_yaml(file)
    assert "\n" not in str(caught.value)


def test_yaml_is_only_data(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("train: !!python/object/apply:os.mkdir [made]")
    with pytest.raises(UsageError):
        read_yaml(file)


def test_an_unknown_preset_suggests_the_nearest():
    with pytest.raises(UsageError, match=r"'shakespear-cpu'; did you mean shakespeare-cpu\?"):
        Config.load("shakespear-cpu")


def test_nothing_near_gives_no_suggestion():
    assert did_you_mean("qqqq", ["train", "model"]) == ""
    assert did_you_mean("trian", ["train", "model"], "x.") == "did you mean x.train?"


def test_assignments_are_checked_too():
    config = TrainConfig()
    with pytest.raises(ValueError, match="greater than 0"):
        config.learning_rate = -1


def test_the_count_of_flops_is_six_a_weight_and_attention():
    config = ModelConfig(vocab_size=100, num_layers=2, num_heads=2, hidden_dim=8, max_length=16)
    weights = config.num_parameters() - 16 * 8  # learned positions are looked up
    assert config.flops_per_token() == 6 * weights + 12 * 2 * 8 * 16
    with pytest.raises(UsageError, match=r"model\.vocab_size is not known"):
        ModelConfig().flops_per_token()


def test_greedy_is_a_temperature_of_zero():
    assert SamplingConfig(temperature=0).temperature == 0


def test_derived_values_follow_the_fields_they_are_derived_from():
    config = ModelConfig(num_heads=4, hidden_dim=32, bias=False, mlp_bias=True)
    derived = {"num_kv_heads": 4, "head_dim": 8, "intermediate_dim": 128, "qkv_bias": False}
    assert {name: getattr(config, name) for name in derived} == derived
    wider = config.model_copy(update={"num_heads": 8, "hidden_dim": 128, "bias": True})
    assert (wider.num_kv_heads, wider.head_dim, wider.intermediate_dim) == (8, 16, 512)
    assert (wider.qkv_bias, wider.mlp_bias) == (True, True)
    config.num_heads = 2
    assert (config.num_kv_heads, config.head_dim, config.mlp_bias) == (2, 16, True)


def test_derived_values_are_left_out_when_saved_and_compare_by_value():
    config = ModelConfig(num_heads=4, hidden_dim=32, qkv_bias=None, head_dim=8)
    saved = config.model_dump()
    assert [saved[name] for name in ("num_kv_heads", "head_dim", "qkv_bias")] == [None, 8, None]
    assert ModelConfig(**saved) == config == ModelConfig(num_heads=4, hidden_dim=32, qkv_bias=True)
    assert config != ModelConfig(num_heads=4, hidden_dim=32, qkv_bias=False)


def test_a_copy_that_does_not_fit_together_is_refused():
    config = ModelConfig(num_heads=4, num_kv_heads=2, hidden_dim=32)
    with pytest.raises(ValueError, match="num_heads 3 is not a multiple of num_kv_heads 2"):
        config.model_copy(update={"num_heads": 3, "head_dim": 8})


@pytest.mark.parametrize("key", ["sampling.stop", "sampling.bad_words", "train.sample_prompts"])
def test_one_text_is_a_list_of_one(key):
    section, name = key.split(".")
    config = Config.parse(yaml.safe_load(f"{section}:\n  {name}: '###'\n"))
    assert getattr(getattr(config, section), name) == ["###"]
    with pytest.raises(UsageError, match="should be a valid list, not 3"):
        Config.parse({section: {name: 3}})
