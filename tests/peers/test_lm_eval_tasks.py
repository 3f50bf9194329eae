"""Tasks of lm-eval on kgpt's engine give what its `hf` model gives on the same weights."""

import json

import pytest

from tests.tiny import write_tiny_model

lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("transformers")
pytestmark = pytest.mark.proof
CONTEXT = 96
QUESTIONS = [
    {"question": "Where is the boat?", "choices": [" far over the sea", " at home", " naïve 🙂"]},
    {"question": "Who went?", "choices": [" a", " the little boat that went far", " I"]},
    {"question": "Who " * 40, "choices": [" yes", " no", " perhaps"]},  # longer than the context
    {"question": "", "choices": [" yes", " no", " perhaps"]},
]
SOURCE = """
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
"""
TASKS = {
    "tiny_choice": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "tiny_rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}{{choices[1]}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
    "tiny_generation": """
output_type: generate_until
doc_to_text: "Q: {{question}} A:"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["e"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            patch.setenv(name, "1")
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, QUESTIONS)), encoding="utf-8")
    for name, text in TASKS.items():
        whole = f"task: {name}{SOURCE}{text}".replace("DATA", str(data))
        (folder / f"{name}.yaml").write_text(whole, encoding="utf-8")
    return [str(folder / f"{name}.yaml") for name in TASKS]


def recorded(model, calls):
    """`model`, which notes the answers to each kind of request in `calls`."""
    for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        answer = getattr(model, kind)

        def note(requests, kind=kind, answer=answer, **options):
            calls[kind] = answer(requests, **options)
            return calls[kind]

        setattr(model, kind, note)
    return model


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_three_kinds_of_tasks_agree_with_hf(tmp_path, files, architecture, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    from kgpt.evaluation import tasks
    from kgpt.generation.generator import TextGenerator

    folder = write_tiny_model(tmp_path / "model", architecture, max_length=CONTEXT, noise=0.2)
    answers = {"hf": {}, "kgpt": {}}
    hf = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)
    theirs = lm_eval.simple_evaluate(
        recorded(hf, answers["hf"]),
        tasks=list(TASKS),
        task_manager=lm_eval.tasks.TaskManager(include_path=str(files[0].rpartition("/")[0])),
        bootstrap_iters=10,
    )
    make = tasks.TaskModel
    monkeypatch.setattr(tasks, "TaskModel", lambda *given: recorded(make(*given), answers["kgpt"]))
    with TextGenerator(folder, max_num_seqs=4) as generator:
        ours = tasks.run_tasks(generator, files)
    assert answers["kgpt"]["generate_until"] == answers["hf"]["generate_until"]
    pairs = zip(answers["kgpt"]["loglikelihood"], answers["hf"]["loglikelihood"], strict=True)
    for (logprob, greedy), (expected, expected_greedy) in pairs:
        assert logprob == pytest.approx(expected, rel=1e-5) and greedy == expected_greedy
    rolling = answers["hf"]["loglikelihood_rolling"]
    assert answers["kgpt"]["loglikelihood_rolling"] == pytest.approx(rolling, rel=1e-5)
    for name in TASKS:
        for metric, value in theirs["results"][name].items():
            if isinstance(value, float) and "stderr" not in metric:
                assert ours["results"][name][metric] == pytest.approx(value, rel=1e-5), metric
