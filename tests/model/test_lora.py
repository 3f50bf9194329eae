"""LoRA and DoRA: against NumPy, in training, on int8 and bfloat16 weights, merged, saved."""

import keras
import numpy as np
import pytest

import kgpt
from kgpt.checkpoints.adapters import adapter_variables
from kgpt.checkpoints.lora_modules import projections
from kgpt.checkpoints.pretrained import path_below
from kgpt.errors import UsageError
from kgpt.model.quantization import quantize
from kgpt.model.quantized_weight import Int4Weight, Int8Weight
from tests.model import reference
from tests.model.models import KINDS, dequantized, quantized_model
from tests.model.test_gradients import gradients_by_training
from tests.tiny import tiny_model

pytestmark = pytest.mark.backend

FORMS = {
    "gpt2": {"rank": 3, "alpha": 6.0},
    "llama": {"rank": 3, "alpha": 6.0, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "gpt2-dora": {"rank": 2, "dora": True, "target_modules": ["attn.c_proj", "*.1.*.c_fc"]},
    "llama-dora-rslora": {"rank": 4, "alpha": 2.0, "dora": True, "rslora": True},
    "sinusoidal": {"rank": 2, "target_modules": ["qkv"]},
}
OF_GPT2, OF_LLAMA = FORMS["gpt2"], FORMS["llama"]


def adapted(form, noise=0.3, **changes):
    """A tiny model with adapters of one of `FORMS`, all of them random."""
    model = tiny_model(seed=3, noise=0.3, **KINDS[form.partition("-")[0]])
    kgpt.add_lora(model, **{**FORMS[form], **changes})
    return randomized(model, noise)


def randomized(model, noise=0.3):
    rng = np.random.default_rng(5)
    for variable in adapter_variables(model).values():
        shift = rng.normal(0, noise, variable.shape).astype("float32")
        variable.assign(variable.numpy() + shift)
    return model


def weights_of(model):
    """All weights and adapter matrices by path, float64."""
    return {path_below(v): np.asarray(v.numpy(), "float64") for v in model.weights}


def merged_in_numpy(model, form):
    """The weights with adapters multiplied out, from the papers' formulas; and the factor of each.

    Returns weights by path, and by path of A the columns it acts on, m / norm, and W + s A B.
    """
    options, weights = FORMS[form], weights_of(model)
    s = options.get("alpha", 16.0) / options["rank"] ** (0.5 if options.get("rslora") else 1)
    parts = {}
    for projection in projections(model.config).values():
        stem = f"{projection.path.rpartition('/')[0]}/{projection.module.rpartition('.')[2]}_lora"
        if f"{stem}_a" not in weights:
            continue
        columns = slice(projection.start, projection.start + projection.outputs)
        whole = weights[projection.path]
        direction = whole[:, columns] + s * weights[f"{stem}_a"] @ weights[f"{stem}_b"]
        factor = np.ones(projection.outputs)
        if options.get("dora"):
            factor = weights[f"{stem}_magnitude"] / np.sqrt((direction**2).sum(axis=0))
        parts[stem] = projection.path, columns, s, factor, direction
    for path, columns, _, factor, direction in parts.values():
        weights[path][:, columns] = factor * direction
    return weights, parts


@pytest.mark.parametrize("form", FORMS)
def test_logits_equal_numpy(form, ids):
    model = adapted(form)
    weights, parts = merged_in_numpy(model, form)
    assert len(parts) > 1
    for row, logits in zip(ids, keras.ops.convert_to_numpy(model(ids)), strict=True):
        expected = reference.logits(model.config, weights, row)
        np.testing.assert_allclose(logits, expected, atol=2e-4)


@pytest.mark.parametrize("form", ["llama", "gpt2-dora"])
def test_new_adapters_change_nothing(form, ids):
    model = tiny_model(seed=3, noise=0.3, **KINDS[form.partition("-")[0]])
    before = keras.ops.convert_to_numpy(model(ids))
    kgpt.add_lora(model, **FORMS[form])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(ids)), before, atol=1e-5)


@pytest.mark.parametrize("form", ["llama", "gpt2-dora"])
def test_gradients_are_those_of_the_merged_weights(form, ids):
    """dA = s dW B^T, dB = s A^T dW and dm = dW . direction / norm, and no other weight moves."""
    model = adapted(form)
    values, parts = weights_of(model), merged_in_numpy(model, form)[1]
    frozen = [v for v in model.weights if not v.trainable]
    before = [v.numpy().copy() for v in frozen]
    found, _ = gradients_by_training(model, ids, ids)
    assert set(found) == set(adapter_variables(model))
    for variable, value in zip(frozen, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    model = adapted(form)
    kgpt.merge_lora(model)
    of_weights, _ = gradients_by_training(model, ids, ids)
    for stem, (path, columns, s, factor, direction) in parts.items():
        a, b, dw = values[f"{stem}_a"], values[f"{stem}_b"], of_weights[path][:, columns]
        expected = {"a": s * (dw * factor) @ b.T, "b": s * a.T @ (dw * factor)}
        if form.endswith("dora"):
            expected["magnitude"] = (dw * direction).sum(0) * factor / values[f"{stem}_magnitude"]
        for name, value in expected.items():
            np.testing.assert_allclose(found[f"{stem}_{name}"], value, atol=2e-5, err_msg=stem)
            assert np.abs(value).max() > 1e-4


def test_dropout_is_off_in_inference_and_repeated_by_checkpointing(ids):
    """And the int8 weights of QLoRA give the same gradients when a block is recomputed."""
    plain, dropping = adapted("llama"), adapted("llama", dropout=0.5)
    of_both = [keras.ops.convert_to_numpy(model(ids)) for model in (plain, dropping)]
    np.testing.assert_array_equal(*of_both)
    found = []
    for recomputed in (False, True):
        model = quantized_model("llama", gradient_checkpointing=recomputed)
        kgpt.add_lora(model, dropout=0.5, **OF_LLAMA)
        found.append(gradients_by_training(randomized(model), ids, ids, steps=2))
    (plain, losses), (recomputed, again) = found
    np.testing.assert_allclose(losses, again, rtol=1e-5)
    for path, gradient in plain.items():
        np.testing.assert_allclose(recomputed[path], gradient, atol=1e-5, err_msg=path)
    model.compile(keras.optimizers.SGD(0.0), kgpt.NextTokenLoss())
    losses = [model.train_on_batch(ids, ids) for _ in range(2)]
    assert losses[0] != losses[1], "each step draws a mask of its own"


@pytest.mark.portable
def test_recomputed_blocks_of_int8_weights_train_in_bfloat16(ids):
    model = quantized_model("llama", gradient_checkpointing=True, dtype="mixed_bfloat16")
    kgpt.add_lora(model, **OF_LLAMA)
    model.compile(kgpt.AdamW(1e-2), kgpt.NextTokenLoss())
    losses = [float(model.train_on_batch(ids, ids)) for _ in range(4)]
    assert losses[3] < losses[0]


@pytest.mark.parametrize(
    ("form", "weight_format"),
    [
        ("llama", "int8"),
        pytest.param("gpt2-dora", "int8", marks=pytest.mark.portable),
        pytest.param("llama-dora-rslora", "int4", marks=pytest.mark.portable),
    ],
)
def test_quantized_weights_train_adapters_as_their_float_values_do(form, weight_format, ids):
    kind, options = form.partition("-")[0], FORMS[form]
    model = quantized_model(kind, weight_format)
    twin = dequantized(model)
    for each in (model, twin):
        kgpt.add_lora(each, **options)
        randomized(each)
    np.testing.assert_allclose(
        *(keras.ops.convert_to_numpy(each(ids)) for each in (model, twin)), atol=1e-4
    )
    mine, theirs = (gradients_by_training(each, ids, ids)[0] for each in (model, twin))
    assert set(mine) == set(theirs) == set(adapter_variables(model))
    for path, gradient in theirs.items():
        np.testing.assert_allclose(mine[path], gradient, atol=2e-5, err_msg=path)
    formats = {type(linear.weight) for linear in model.linears}
    assert formats == ({Int8Weight} if weight_format == "int8" else {Int8Weight, Int4Weight})


def test_adapters_are_float32_on_bfloat16_weights(ids):
    model = tiny_model(dtype="bfloat16", **KINDS["llama"])
    kgpt.add_lora(model, dora=True, **OF_LLAMA)
    model.compile(kgpt.AdamW(1e-2), kgpt.NextTokenLoss())
    losses = model.fit(ids, ids, epochs=4, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert {linear.variable.dtype for linear in model.linears} == {"bfloat16"}


@pytest.mark.parametrize("form", FORMS)
def test_merged_equals_unmerged_and_trains_whole(form, ids):
    model = adapted(form, noise=0.1)
    count = len(tiny_model(**KINDS[form.partition("-")[0]]).trainable_variables)
    before = keras.ops.convert_to_numpy(model(ids))
    kgpt.merge_lora(model)
    after = keras.ops.convert_to_numpy(model(ids))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    assert len(model.trainable_variables) == count
    assert not any("lora" in v.path for v in model.variables)
    with pytest.raises(UsageError, match="no adapters"):
        kgpt.merge_lora(model)


@pytest.mark.portable
def test_text_is_generated_with_the_adapter():
    model = adapted("llama")
    kgpt.merge_lora(merged := adapted("llama"))
    prompts, options = [[3, 1, 4], [1, 5]], {"max_tokens": 8, "temperature": 0}
    plain = tiny_model(seed=3, noise=0.3, **KINDS["llama"])
    before = plain.generate(prompts, **options)
    assert model.generate(prompts, **options) == merged.generate(prompts, **options) != before
    scores = logprobs_of(plain, prompts)
    kgpt.add_lora(plain, **OF_LLAMA)
    randomized(plain)
    assert plain.generate(prompts, **options) == merged.generate(prompts, **options)
    np.testing.assert_allclose(logprobs_of(plain, prompts), logprobs_of(merged, prompts), atol=1e-4)
    assert np.abs(logprobs_of(plain, prompts) - scores).max() > 1e-2


def logprobs_of(model, prompts):
    """Log-probabilities of the prompts' tokens, from the functions compiled for scoring."""
    from kgpt.generation.forward import run_batch
    from kgpt.generation.forward_job import ForwardJob

    jobs = [ForwardJob(prompt, "logprobs") for prompt in prompts]
    for _ in run_batch(model, jobs, 4, 64):
        pass
    return np.concatenate([job.result.logprobs for job in jobs])


def test_a_keras_file_keeps_adapters(tmp_path, ids):
    model = adapted("gpt2-dora", dropout=0.1)
    model.compile(kgpt.AdamW(1e-3), kgpt.NextTokenLoss())
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.adapter_config == model.adapter_config
    assert [v.path for v in again.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]
    np.testing.assert_array_equal(
        *(keras.ops.convert_to_numpy(each(ids)) for each in (model, again))
    )


def test_the_optimizer_keeps_a_twentieth_of_what_it_keeps_for_all_weights():
    """LoRA of rank 8, the bytes of AdamW's variables."""
    sizes = []
    for lora in (False, True):
        model = tiny_model("gpt2", hidden_dim=256, num_layers=4, vocab_size=2000)
        if lora:
            kgpt.add_lora(model, rank=8)
        optimizer = kgpt.AdamW(1e-3)
        optimizer.build(model.trainable_variables)
        sizes.append(sum(np.prod(v.shape) * 4 for v in optimizer.variables))
    assert 0 < sizes[1] <= 0.05 * sizes[0]


def test_blocks_with_other_adapters_are_not_compiled_as_one():
    model = adapted("gpt2", target_modules=["*.1.attn.c_attn"])
    assert model.blocks[0].structure != model.blocks[1].structure
    same = adapted("gpt2")
    assert same.blocks[0].structure == same.blocks[1].structure
    scaled = tiny_model(**KINDS["gpt2"])
    options = kgpt.LoraConfig(alpha_pattern={"*.1.*": 3.0}).model_dump()
    scaled = kgpt.GPT(scaled.config, adapter_config=options)
    assert scaled.blocks[0].structure != scaled.blocks[1].structure


def test_a_compiled_model_is_compiled_anew(ids):
    """Otherwise its optimizer would go on with the weights that are frozen now."""
    model = tiny_model(**KINDS["gpt2"])
    model.compile(kgpt.AdamW(1e-3), kgpt.NextTokenLoss())
    model.fit(ids, ids, verbose=0)
    kgpt.add_lora(model, **OF_GPT2)
    with pytest.raises(ValueError, match="compile"):
        model.fit(ids, ids, verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["query"]}, "No module is called 'query'; the model has c_attn, c_fc"),
        ({"rank": 0}, "rank should be greater than or equal to 1"),
        ({"dropout": 1.0}, "dropout should be less than 1"),
        ({"alpha": -1}, "alpha should be greater than 0"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    model = tiny_model(**KINDS["gpt2"])
    with pytest.raises(UsageError, match=message):
        kgpt.add_lora(model, **options)
    assert len(model.trainable_variables) == 28


def test_adapters_are_added_once_and_merged_before_conversion(tmp_path):
    model = adapted("gpt2")
    with pytest.raises(UsageError, match="adapters already"):
        kgpt.add_lora(model)
    with pytest.raises(UsageError, match="merge them first"):
        quantize(model)
    with pytest.raises(UsageError, match="save_adapter"):
        model.save_pretrained(tmp_path / "model")
    of_int8 = quantized_model("gpt2")
    kgpt.add_lora(of_int8)
    with pytest.raises(UsageError, match="kgpt merge"):
        kgpt.merge_lora(of_int8)
