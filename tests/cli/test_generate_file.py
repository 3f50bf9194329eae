"""`kgpt generate --input-file`: an interrupted job goes on with its settings, and no others."""

import json

import pytest

from kgpt.cli.generate_file import complete_file, identify_model, settings_file
from kgpt.config import SamplingConfig
from kgpt.errors import UsageError
from kgpt.generation.completion import Completion
from kgpt.protocol import Usage

ABOUT = {"model": "/runs/one", "weights": "abc", "dtype": "float32"}
PROMPTS = ["To be", "Or not", "That is"]
ALL = len(PROMPTS)


class Engine:
    """Completes a prompt by its seed and temperature; ends with an error after some prompts."""

    def __init__(self, ends_after=ALL):
        self.left, self.asked = ends_after, []

    def generate_batch(self, prompts, sampling, on_done, adapter=None, receipt=False):
        for number, prompt in enumerate(prompts):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.asked.append(prompt)
            text = f"{sampling.temperature} {sampling.seed + number}"
            on_done(number, Completion(text, "length", Usage(1, 1, 0)))


@pytest.fixture
def files(tmp_path):
    """The file of prompts, and that of completions, which does not exist."""
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return str(tmp_path / "prompts.txt"), tmp_path / "out.jsonl"


def job(files, sampling=None, about=ABOUT, ends_after=ALL, overwrite=False):
    """Run a job, which may be interrupted; returns the prompts that were completed by it."""
    engine = Engine(ends_after)
    sampling = sampling or SamplingConfig()
    try:
        complete_file(engine, sampling, files[0], str(files[1]), about, overwrite)
    except KeyboardInterrupt:
        assert ends_after < ALL
    return engine.asked


def texts(files):
    return [json.loads(line)["text"] for line in files[1].read_text().splitlines()]


def test_a_resumed_job_goes_on_with_the_random_seed_that_it_began_with(files):
    assert job(files, ends_after=1) == PROMPTS[:1]
    assert job(files) == PROMPTS[1:]
    seeds = [int(text.split()[1]) for text in texts(files)]
    assert seeds == [seeds[0], seeds[0] + 1, seeds[0] + 2]


CHANGES = {
    "temperature": ({"temperature": 0.2}, ABOUT),
    "seed": ({"seed": 8}, ABOUT),
    "stop": ({"stop": ["\n"]}, ABOUT),
    "logit_bias": ({"logit_bias": {5: -1.0}}, ABOUT),
    "model": ({}, ABOUT | {"model": "/runs/two"}),
    "weights": ({}, ABOUT | {"weights": "abd"}),
    "dtype": ({}, ABOUT | {"dtype": "int8"}),
}


@pytest.mark.parametrize("done", [1, 3])
@pytest.mark.parametrize("name", CHANGES)
def test_other_settings_are_refused_with_the_difference(files, name, done):
    """Also of a job that has nothing left to do, which would have passed as done with them."""
    before = SamplingConfig(seed=7, logit_bias={5: 1.0})
    job(files, before, ends_after=done)
    written, noted = (path.read_text() for path in (files[1], settings_file(files[1])))
    options, about = CHANGES[name]
    changed = before.model_copy(update=options)
    with pytest.raises(UsageError, match=rf"has completions with {name} .*, not .*--overwrite"):
        job(files, changed, about)
    assert (files[1].read_text(), settings_file(files[1]).read_text()) == (written, noted)
    assert job(files, changed, about, overwrite=True) == PROMPTS
    assert len(texts(files)) == 3
    assert job(files, changed, about) == []


def test_a_job_that_is_done_says_so(files, capsys):
    job(files)
    assert job(files) == []
    assert f"{files[1]} has all 3 completions already." in capsys.readouterr().err


def test_completions_without_noted_settings_are_resumed_and_that_is_said(files, capsys):
    job(files, ends_after=1)
    settings_file(files[1]).unlink()
    assert job(files, SamplingConfig(temperature=0.5)) == PROMPTS[1:]
    assert "does not say how it was made: settings are not compared" in capsys.readouterr().err


def test_other_prompts_are_refused_or_replaced(files, tmp_path):
    job(files)
    (tmp_path / "prompts.txt").write_text("Whether")
    with pytest.raises(UsageError, match="completions of other prompts; .* --overwrite"):
        job(files)
    assert job(files, overwrite=True) == ["Whether"]
    assert len(texts(files)) == 1


def test_a_model_is_known_by_its_weights(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(3 << 20))
    before = identify_model(tmp_path)
    assert identify_model(tmp_path) == before
    weights.write_bytes(bytes(3 << 20)[:-1] + b"x")
    after = identify_model(tmp_path)
    assert after["model"] == before["model"] and after["weights"] != before["weights"]
