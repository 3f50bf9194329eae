"""The systems that `benchmarks.generate` measures: each loads the model and generates.

Run as `python -m benchmarks.generate_systems SYSTEM FOLDER`, one prints "0" when it is ready, and
then tokens per second for each batch size that it reads. `prepare FOLDER KIND` writes the model.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROMPT, NEW, VOCABULARY = 32, 128, 50257
BATCHES = (1, 8)
WARM_UP = 8  # tokens generated right before a measurement, which are not counted
Generate = Callable[[int, int], None]  # of a batch size and the number of new tokens


def main() -> None:
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]), sys.argv[3])
    else:
        run_system(sys.argv[1], Path(sys.argv[2]))


def run_system(name: str, folder: Path) -> None:
    kind, *rest = name.split()
    if kind == "kgpt":
        from kgpt.cli.environment import prepare_process

        prepare_process()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep other output off standard output
    precision = rest[-1] if rest and rest[-1] in PRECISIONS else "float32"
    generate = KINDS[kind](folder, precision)
    for batch in BATCHES:
        generate(batch, WARM_UP)
        if kind in COMPILED:
            generate(batch, NEW)
    print(0, file=answers, flush=True)
    for line in sys.stdin:
        batch = int(line)
        if kind != "keras-hub":  # it would generate as many as in a measurement
            generate(batch, WARM_UP)
        started = time.perf_counter()
        generate(batch, NEW)
        rate = batch * NEW / (time.perf_counter() - started)
        print(json.dumps(rate), file=answers, flush=True)


def prompts(batch: int):
    import numpy as np

    return np.random.default_rng(0).integers(0, VOCABULARY, (batch, PROMPT)).astype("int32")


# -- the model in each format --------------------------------------------------------------------


def prepare(folder: Path, kind: str) -> None:
    """Write what the systems of a kind load; the model directory is written first."""
    if not (folder / "model").exists():
        _write_model(folder / "model")
    if kind == "kgpt":
        from kgpt.checkpoints.convert import quantize_model

        for bits in (8, 4):
            (folder / f"int{bits}").mkdir()
            quantize_model(folder / "model", folder / f"int{bits}", bits)
    elif kind == "llama.cpp":
        _write_gguf(folder)
    elif kind == "ctranslate2":
        _write_ctranslate2(folder)


def _write_model(target: Path) -> None:
    from kgpt import GPT, Tokenizer
    from kgpt.checkpoints.pretrained import save_model
    from kgpt.config import Config

    config = Config.load("gpt2").model.model_copy(update={"vocab_size": VOCABULARY})
    target.mkdir()
    save_model(GPT(config, seed=1), target, Tokenizer.of_bytes())


def _write_gguf(folder: Path) -> None:
    """In q4_0 with the embedding in q4_0 too, which is faster than what llama-quantize writes."""
    from kgpt.export import gguf

    gguf.MATRIX_TYPES["q4_0"] = ("Q4_0", "Q4_0")
    for dtype in ("float32", "q8_0", "q4_0"):
        (folder / f"gguf-{dtype}").mkdir()
        gguf.export_gguf(folder / "model", folder / f"gguf-{dtype}", dtype)


def _write_ctranslate2(folder: Path) -> None:
    from ctranslate2.converters.transformers import GPT2Loader

    spec = GPT2Loader().get_model_spec(_hugging_face(folder))
    spec.register_vocabulary([str(number) for number in range(VOCABULARY)])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"
    spec.validate()
    spec.optimize()
    (folder / "ctranslate2").mkdir()
    spec.save(str(folder / "ctranslate2"))


# -- the systems ---------------------------------------------------------------------------------


def kgpt(folder: Path, precision: str) -> Generate:
    from kgpt.config import SamplingConfig
    from kgpt.generation.loading import load_for_inference
    from kgpt.generation.runner import ModelRunner
    from kgpt.generation.sequence import Request

    source = folder / (precision if precision.startswith("int") else "model")
    model = load_for_inference(source, {"bf16": "bfloat16"}.get(precision, precision))
    runners = {size: ModelRunner(model, size) for size in BATCHES}

    def generate(size: int, count: int) -> None:
        runner = runners[size]
        greedy = SamplingConfig(temperature=0, max_tokens=count)
        for slot, ids in enumerate(prompts(size)):
            runner.sequences[slot].token_ids = []  # no cached prefix from the last round
            runner.add(slot, Request(ids.tolist(), greedy))
        while pending := [i for i in range(size) if not runner.sequences[i].is_decoding]:
            runner.prefill(pending)
        while runner.decoding_slots():
            runner.decode()

    return generate


def transformers(folder: Path, precision: str) -> Generate:
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = _hugging_face(folder).eval().to(dtype)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None

    def generate(size: int, count: int) -> None:
        ids = torch.from_numpy(prompts(size)).long()
        with torch.inference_mode():
            model.generate(ids, max_new_tokens=count, do_sample=False)

    return generate


def _hugging_face(folder: Path):
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(folder / "model")


def keras_hub(folder: Path, precision: str) -> Generate:
    """With weights of its own, which cost the same."""
    import keras_nlp
    import numpy as np

    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=VOCABULARY, num_layers=12, num_heads=12, hidden_dim=768,
        intermediate_dim=3072, max_sequence_length=1024,
    )  # fmt: skip
    model = keras_nlp.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    model.compile(sampler="greedy")

    def generate(size: int, count: int) -> None:
        count = NEW  # another length would compile anew
        ids = np.zeros((size, PROMPT + count), "int32")
        ids[:, :PROMPT] = prompts(size)
        mask = np.zeros((size, PROMPT + count), bool)
        mask[:, :PROMPT] = True
        model.generate({"token_ids": ids, "padding_mask": mask}, stop_token_ids=None)

    return generate


def llama_cpp(folder: Path, precision: str) -> Generate:
    """llama.cpp's server in this process, one slot per sequence."""
    from concurrent.futures import ThreadPoolExecutor

    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(folder / f"gguf-{precision}" / "model.gguf")
    settings.n_parallel = max(BATCHES)
    settings.n_ctx = settings.n_parallel * 2 * (PROMPT + NEW)
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = _cores()
    server = xllamacpp.Server(settings)
    pool = ThreadPoolExecutor(max(BATCHES))

    def generate(size: int, count: int) -> None:
        def answer(ids: list[int]) -> None:
            response = server.handle_completions(
                {"prompt": ids, "max_tokens": count, "temperature": 0, "top_k": 1,
                 "ignore_eos": True, "cache_prompt": False}
            )  # fmt: skip
            assert response["usage"]["completion_tokens"] == count

        list(pool.map(answer, prompts(size).tolist()))

    return generate


def ctranslate2(folder: Path, precision: str) -> Generate:
    import ctranslate2 as library

    generator = library.Generator(
        str(folder / "ctranslate2"), compute_type=precision, intra_threads=_cores()
    )

    def generate(size: int, count: int) -> None:
        start = [[str(token) for token in ids] for ids in prompts(size).tolist()]
        results = generator.generate_batch(
            start, max_length=count, min_length=count, beam_size=1, sampling_topk=1,
            include_prompt_in_result=False,
        )  # fmt: skip
        assert all(len(result.sequences_ids[0]) == count for result in results)

    return generate


def _cores() -> int:
    return len(os.sched_getaffinity(0))


KINDS = {
    "kgpt": kgpt, "transformers": transformers, "keras-hub": keras_hub, "llama.cpp": llama_cpp,
    "ctranslate2": ctranslate2,
}  # fmt: skip
COMPILED = ("kgpt", "keras-hub")
PRECISIONS = ("bf16", "int8", "int4", "q8_0", "q4_0")

if __name__ == "__main__":
    main()
