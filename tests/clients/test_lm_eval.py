"""lm-evaluation-harness, as it is, against `kgpt serve`: its numbers are those of the model.

The harness finds the server's tokenizer endpoints by itself, so nothing is downloaded.
"""

import json
import os
import subprocess
import sys

import httpx
import numpy as np
import pytest

from tests.serving.harness import eventually
from tests.tiny import write_tiny_model

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.proof
CONTEXT = 128
QUESTIONS = [
    {"question": "Where is the boat?", "choices": [" far over the sea", " at home", " naïve 🙂"]},
    {"question": "Who went?", "choices": [" a", " the little boat that went far", " I"]},
    {"question": "", "choices": [" yes", " no", " perhaps"]},
]
SOURCE = """
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
"""
CHOICE = """
task: tiny_choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc}]
"""
GENERATION = """
task: tiny_generation
output_type: generate_until
doc_to_text: "Q: {{question}} A:"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
"""
ROLLING = """
task: tiny_rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}{{choices[1]}}"
metric_list: [{metric: bits_per_byte}]
"""
TASKS = {"tiny_choice": CHOICE, "tiny_generation": GENERATION, "tiny_rolling": ROLLING}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(
        tmp_path_factory.mktemp("model") / "tiny", max_length=CONTEXT, noise=0.2
    )


@pytest.fixture(scope="module")
def url(model):
    command = [
        *(sys.executable, "-m", "kgpt", "serve", "--model", str(model), "--port", "0"),
        *("--max-num-seqs", "2"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        url = child.stdout.readline().strip().split(" on ")[-1]
        eventually(lambda: httpx.get(f"{url}/health", timeout=60).status_code == 200, 300)
        yield url
        child.terminate()


@pytest.fixture(scope="module")
def samples(url, tmp_path_factory):
    """What the harness logged of each task, in the order of QUESTIONS."""
    folder = tmp_path_factory.mktemp("lm_eval")
    data = folder / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
    for name, task in TASKS.items():
        text = (SOURCE + task).replace("DATA", str(data))
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    model_args = f"model=tiny,base_url={url}/v1/completions,max_length={CONTEXT}"
    command = [
        *(sys.executable, "-m", "lm_eval", "--model", "local-completions"),
        *("--model_args", model_args, "--batch_size", "4", "--log_samples"),
        *("--tasks", ",".join(TASKS), "--include_path", str(folder)),
        *("--output_path", str(folder / "out")),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        command, env=os.environ | offline, capture_output=True, text=True, timeout=280, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for path in folder.rglob("samples_*.jsonl"):
        logged = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kind = next(name.removeprefix("tiny_") for name in TASKS if name in path.name)
        found[kind] = sorted(logged, key=lambda sample: sample["doc_id"])
    return found


def scorer(folder):
    """A function of context and continuation: the log-probability, and whether it is greedy."""
    from kgpt import GPT, backend

    gpt = GPT.from_pretrained(folder)

    def logprobs_of(context, answer):
        ids = np.array([[*context, *answer]], "int32")
        logits = backend.to_host(gpt(ids))[0].astype("float64")[len(context) - 1 : -1]
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        is_greedy = (logits.argmax(-1) == answer).all()
        return logprobs[np.arange(len(answer)), answer].sum(), bool(is_greedy)

    return logprobs_of


def test_loglikelihoods_are_those_of_the_model(model, samples):
    logprobs_of = scorer(model)
    assert len(samples["choice"]) == len(QUESTIONS)
    for question, sample in zip(QUESTIONS, samples["choice"], strict=True):
        context = list(question["question"].encode()) or [256]  # <|endoftext|> before nothing
        for choice, (logged, *_) in zip(question["choices"], sample["resps"], strict=True):
            expected, is_greedy = logprobs_of(context, list(choice.encode()))
            assert float(logged[0]) == pytest.approx(expected, abs=1e-3)
            assert str(logged[1]) == str(is_greedy)


def test_rolling_loglikelihoods_are_those_of_the_model(model, samples):
    logprobs_of = scorer(model)
    assert len(samples["rolling"]) == len(QUESTIONS)
    for question, sample in zip(QUESTIONS, samples["rolling"], strict=True):
        text = f"{question['question']}{question['choices'][1]}".encode()
        expected, _ = logprobs_of([256], list(text))
        assert float(sample["resps"][0][0]) == pytest.approx(expected, abs=1e-3)


def test_generated_texts_are_those_of_the_model(url, samples):
    assert len(samples["generation"]) == len(QUESTIONS)
    for question, sample in zip(QUESTIONS, samples["generation"], strict=True):
        ask = {"prompt": f"Q: {question['question']} A:", "max_tokens": 12, "temperature": 0}
        stop = ["\n\n", "<|endoftext|>"]
        answer = httpx.post(f"{url}/v1/completions", json=ask | {"stop": stop}, timeout=60).json()
        assert sample["resps"] == [[answer["choices"][0]["text"]]]
