"""`kgpt eval`: models and servers on one set of documents, compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kgpt.config import EvaluationConfig, EvaluationSuite
from kgpt.data.prepare import prepare
from kgpt.data.sources import Corpus
from kgpt.errors import DataError, KgptError, UsageError
from kgpt.evaluation.models import open_model
from kgpt.evaluation.positions import NUM_BINS
from kgpt.evaluation.prompts import read_prompts
from kgpt.evaluation.result import load_results
from kgpt.evaluation.server import ServerScorer
from kgpt.evaluation.windows import Window
from kgpt.text.tokenizer import Tokenizer
from tests.cli.running import kgpt
from tests.serving.harness import start
from tests.tiny import write_tiny_model


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prepare_process", "silence_native_code"):
        monkeypatch.setattr(f"kgpt.cli.eval.{name}", lambda *_: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of one shape, and documents."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two")):
        write_tiny_model(folder / name, "gpt2", seed=seed, noise=0.3 * seed, num_layers=1)
    rows = [{"text": f"Anna went home {i} times."} for i in range(12)]
    (folder / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_models_are_compared_on_the_same_documents(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["--model", folder / "one", "--model", folder / "two"]
    words = ["eval", *models, "--data", folder / "docs.jsonl", "--out", folder / "out"]
    code, out, _ = kgpt(capsys, *words)
    assert code == 0
    said = " ".join(out.split())
    assert "12 documents" in said and "is better than" in said
    one, two = load_results(folder / "out" / "results.json")
    assert [n for n, _ in one.loss_by_position][:3] == [1, 2, 4]
    better, worse = sorted((one, two), key=lambda found: found.metrics["bits_per_byte"].value)
    assert f"{better.name} is better than {worse.name}: bits per byte is" in said
    for name, found in one.metrics.items():
        assert found.low <= found.value <= found.high
        assert len(one.statistics[name].rows) == 12
    assert one.model["sha256"] != two.model["sha256"] and one.data == two.data
    code, out, _ = kgpt(capsys, *words, "--json")  # read from what is finished
    again = json.loads(out)["results"]
    assert [found["metrics"] for found in again] == [
        found.as_dict(with_statistics=False)["metrics"] for found in (one, two)
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "x"], "No model is named"),
        (["--model", "x"], "Nothing to evaluate on is named"),
        (["--model", "x", "--suite", "x.yaml", "--stride", "2"], "leave the other options out"),
        (["--server", "http://x", "--tokenizer", "x", "--prompts", "x"], "on data alone"),
        (["--server", "http://x", "--data", "x"], "belong together"),
    ],
)
def test_what_is_missing_is_named(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = kgpt(capsys, "eval", *words)
    assert code == 2 and message in err


SUITE = """
evaluations:
- name: docs
  data: docs.jsonl
- name: stories
  prompts: prompts.jsonl
  novelty_data: seen
  sampling: {max_tokens: 4, temperature: 1.0}
"""


def test_a_suite_predicts_documents_and_scores_completions(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "suite.yaml").write_text(SUITE)
    prepare(Corpus([str(folder / "docs.jsonl")]), Tokenizer.of_bytes(), folder / "seen")
    rows = [{"prompt": f"Anna went {place}"} for place in ("home", "away", "up")]
    chat = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Anna"}]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["eval", "--model", "one", "--suite", "suite.yaml", "--out", "found", "--json"]
    code, out, _ = kgpt(capsys, *words)
    assert code == 0
    docs, stories = map(json.loads, out.splitlines())
    assert (docs["name"], stories["name"]) == ("docs", "stories")
    assert docs["results"][0]["data"]["documents"] == 12
    (result,) = load_results(folder / "found" / "stories" / "results.json")
    texts = [sample.text for sample in result.samples]
    assert (
        len(texts) == 3 and {"coherence", "rep_4", "distinct_2", "copied"} <= result.metrics.keys()
    )
    assert result.samples[0].prompt == "Anna went home" and result.settings["sampling"]
    # Killed after the first completion: the others are the same, with the seeds that they had.
    (file,) = (folder / "found" / "stories").glob("finished-*.jsonl")
    file.write_text(json.dumps([0, "kept"]) + "\n")
    kgpt(capsys, *words)
    (again,) = load_results(folder / "found" / "stories" / "results.json")
    assert [sample.text for sample in again.samples] == ["kept", *texts[1:]]
    (folder / "prompts.jsonl").write_text(json.dumps({"messages": chat}))
    (prompt,) = read_prompts("prompts.jsonl")
    assert prompt.messages == chat[:1] and prompt.references == ["Anna"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{}"], "Line 1 of .* is not a JSON object with a prompt"),
        (['{"prompt": "a"}', '{"prompt": "b", "reference": "c"}'], "for some prompts only"),
        ([""], "has no prompts"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(
    lines: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        read_prompts(str(tmp_path / "prompts.jsonl"))


def test_losses_by_position_are_those_of_the_tokens_there(folder: Path) -> None:
    scorer = open_model(str(folder / "one"), EvaluationConfig()).scorer
    ids = np.random.default_rng(0).integers(0, 250, 21).astype("int32")
    ones = np.ones(20, "float32")
    positions = np.zeros((1, 2, NUM_BINS))
    scorer.losses([Window(0, ids[:-1], ids[1:], ones)], positions=positions)
    for low, high, index in ((1, 1, 0), (2, 3, 1), (8, 15, 3), (16, 20, 4)):
        weights = ones * ((np.arange(20) + 1 >= low) & (np.arange(20) + 1 <= high))
        (expected,) = scorer.losses([Window(0, ids[:-1], ids[1:], weights.astype("float32"))])
        assert positions[0, :, index] == pytest.approx([expected, high - low + 1], rel=1e-5)


@pytest.mark.backend
@pytest.mark.parametrize(("dtype", "tolerance"), [("int8", 0.01), ("int4", 0.1)])
def test_a_model_is_evaluated_as_it_generates(dtype: str, tolerance: float, tmp_path: Path) -> None:
    """With the products of inference, which read packed weights."""
    folder = write_tiny_model(tmp_path / "m", noise=0.2, num_layers=1, hidden_dim=64, num_heads=2)
    ids = np.random.default_rng(0).integers(0, 250, 21).astype("int32")
    window = Window(0, ids[:-1], ids[1:], np.ones(20, "float32"))
    exact, quantized = (
        open_model(str(folder), EvaluationConfig(dtype=name)).scorer.losses([window])[0] / 20
        for name in ("float32", dtype)
    )
    assert quantized == pytest.approx(exact, abs=tolerance) and quantized != exact


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("evaluations: [{name: a}]", "has no data or prompts"),
        ("evaluations: [{name: a, data: x}, {name: a, data: y}]", "have one name"),
        ("evaluations: [{name: a, data: x, strid: 3}]", "did you mean"),
        ("evaluations: [{name: a, prompts: x, sampling: {top_k: -3}}]", "a.sampling.top_k"),
    ],
)
def test_a_suite_that_says_nothing_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        EvaluationSuite.load(tmp_path / "suite.yaml")


def test_a_server_scores_token_ids() -> None:
    """The fake engine's log-probability of a token is minus a hundredth of its id."""
    running = start()
    try:
        scorer = ServerScorer(running.url + "/v1")
        ids = np.arange(10, 60, dtype="int32")
        cut = [
            Window(0, ids[: 20 + i], ids[1 : 21 + i], (np.arange(20 + i) > 3).astype("float32"))
            for i in range(20)
        ]
        expected = [(w.targets * w.weights).sum() / 100 for w in cut]
        positions = np.zeros((len(cut), 2, NUM_BINS))
        assert scorer.losses(cut, positions=positions) == pytest.approx(expected, rel=1e-5)
        assert positions[:, 0].sum(axis=1) == pytest.approx(expected, rel=1e-5)
        assert scorer.context > 20
        with pytest.raises(UsageError, match="has no model 'other'"):
            ServerScorer(running.url, model="other")
    finally:
        running.stop()
    with pytest.raises(KgptError, match="does not answer"):
        ServerScorer(running.url)
