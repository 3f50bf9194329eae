"""Several adapters over one model: each row of a batch is what its adapter generates alone."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from keras import ops

from kgpt import Tokenizer, backend
from kgpt.checkpoints.pretrained import load_model, load_weights
from kgpt.config import SamplingConfig
from kgpt.errors import UsageError
from kgpt.generation.adapters import Adapters
from kgpt.generation.beam_search import beam_search
from kgpt.generation.compiled import CompiledFunctions
from kgpt.generation.contrastive_search import contrastive_search
from kgpt.generation.generator import TextGenerator
from kgpt.generation.loading import load_for_inference
from kgpt.generation.scheduler import generate
from kgpt.generation.speculative import speculative_decode
from tests.generation.adapters import FORMS, greedy, write_adapters, write_base

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    return write_adapters(tmp_path_factory.mktemp("adapters"), base, FORMS)


@pytest.fixture(scope="module")
def generator(base, folders):
    """The base model with all adapters, and room for one more."""
    with TextGenerator(base, max_num_seqs=4, adapters=folders, max_adapters=4) as made:
        yield made


@pytest.fixture(scope="module")
def reference(base, folders, generator):
    """What a request generates with its adapter merged into the weights of one plain model."""
    model = load_model(base)

    def run(name, prompt, sampling):
        load_weights(model, folders[name] if name else base)
        return generate(model, [generator.request(prompt, sampling)])[0].token_ids

    return run


def test_a_batch_of_adapters_is_each_of_them_alone(generator, reference):
    names = [None, *FORMS]
    for sampling in (greedy(), SamplingConfig(seed=5, max_tokens=8)):
        with ThreadPoolExecutor(len(names)) as pool:
            started = {
                name: pool.submit(generator.generate, "To be", sampling, adapter=name)
                for name in names
            }
        texts = {name: done.result().token_ids for name, done in started.items()}
        assert texts == {name: reference(name, "To be", sampling) for name in names}
        assert len({tuple(ids) for ids in texts.values()}) == len(names)


@pytest.mark.portable
def test_a_cached_prefix_is_of_one_adapter(generator, reference):
    """The same prompt by turns: its cache is reused within an adapter alone."""
    prompt, names = "the same long prompt", ["first", "first", "second", None, None, "second"]
    done = [generator.generate(prompt, greedy(), adapter=name) for name in names]
    assert [d.usage.cached_tokens > 0 for d in done] == [False, True, False, False, True, True]
    for name, completion in zip(names, done, strict=True):
        assert completion.token_ids == reference(name, prompt, greedy())


@pytest.mark.portable
def test_searches_and_drafts_are_by_the_adapter(generator, base, folders):
    """Beam search, contrastive search and speculative decoding, as if the adapter were merged."""
    ids = [97, 98, 99, 97, 98, 99, 97, 98]
    searches = {
        beam_search: (greedy(5, beam_size=2), ()),
        contrastive_search: (greedy(5, contrastive_alpha=0.4, top_k=3), ()),
        speculative_decode: (greedy(8), ("prompt_lookup",)),
    }
    merged = load_model(folders["dora"])
    for search, (sampling, options) in searches.items():
        for name in ("dora", None) if search is speculative_decode else ("dora",):
            adapter = generator.adapters.find(name)
            request = generator.request(ids, sampling, adapter=adapter)
            plain = generator.request(ids, sampling)
            if name is None:
                load_weights(merged, base)
            ours, its = search(generator.model, request, *options), search(merged, plain, *options)
            assert [t.id for part in ours for t in part] == [t.id for part in its for t in part]


@pytest.mark.portable
def test_prompts_are_scored_and_embedded_by_an_adapter(generator, folders):
    prompts = ["To be", "O"]
    with TextGenerator(folders["dora"], max_num_seqs=2) as merged:
        ours, its = generator.score(prompts, adapter="dora"), merged.score(prompts)
        np.testing.assert_allclose([s.total for s in ours], [s.total for s in its], rtol=1e-4)
        embeddings = generator.embed(prompts, adapter="dora")
        np.testing.assert_allclose(embeddings, merged.embed(prompts), atol=1e-4)


def test_adapters_are_exchanged_without_compiling_anything(generator, reference, folders):
    unadapted = generator.generate("a", greedy()).token_ids
    compiled = CompiledFunctions.of(generator.model)
    programs = compiled.compilations()
    for name, folder in folders.items():
        generator.load_adapter("exchanged", folder)
        got = generator.generate("a", greedy(), adapter="exchanged").token_ids
        assert got == reference(name, "a", greedy())
        generator.adapters.unload("exchanged")
    assert generator.generate("a", greedy()).token_ids == unadapted
    assert compiled.compilations() == programs


def test_requests_under_way_end_with_an_unloaded_adapter(generator, reference, folders):
    """Its room is taken only when they have ended, and no new request may use it."""
    generator.load_adapter("old", folders["first"])
    adapter = generator.adapters.get("old")
    stream = generator.stream("a", greedy(100_000), adapter="old")
    ids = list(next(stream).token_ids)
    generator.adapters.unload("old")
    with pytest.raises(UsageError, match="There is no adapter 'old'"):
        generator.generate("a", adapter="old")
    with pytest.raises(UsageError, match="unloaded"):
        generator.engine.submit(generator.request("a", greedy(), adapter=adapter))
    with pytest.raises(UsageError, match="Requests still use the adapter 'old'"):
        generator.load_adapter("new", folders["second"])
    while len(ids) < 20:
        ids += next(stream).token_ids
    stream.close()
    assert ids[:20] == reference("first", "a", greedy(20))
    generator.load_adapter("new", folders["second"])
    generator.adapters.unload("new")


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_rows_are_independent_in_each_weight_format(base, folders, dtype):
    """Of a batch: the base model's row is as without adapters, another as among its like."""
    ids = np.random.default_rng(0).integers(0, 259, (3, 7)).astype("int32")
    start, count = np.zeros(3, "int32"), np.full(3, 7, "int32")

    def compiled(model):
        run = backend.jit(lambda *args: model.call_with_cache(*args)[0], model.variables)
        return lambda adapter_ids: backend.to_host(
            ops.cast(run(ids, start, count, model.new_cache(3, 16, adapter_ids)), "float32")
        )

    plain, model = (load_for_inference(base, dtype) for _ in range(2))
    Adapters(model, base, Tokenizer.load(base), {n: folders[n] for n in ("first", "second")})
    hidden, unadapted = compiled(model), compiled(plain)([])
    together, atol = hidden([1, 0, 2]), 0.02 if dtype == "bfloat16" else 1e-5
    for row, adapter_id in enumerate([1, 0, 2]):
        np.testing.assert_allclose(together[row], hidden([adapter_id] * 3)[row], atol=atol)
    np.testing.assert_allclose(together[1], unadapted[1], atol=atol)
    for row in (0, 2):
        assert np.abs(together[row] - unadapted[row]).max() > 0.1
