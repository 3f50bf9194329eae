"""--adapter: an adapter by its name and folder."""

import json
from types import SimpleNamespace

import pytest

import kgpt
from kgpt.cli.adapters import parse_adapters
from kgpt.errors import RunError, UsageError
from tests.cli.running import kgpt as cli
from tests.generation.adapters import write_adapters, write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    return write_adapters(tmp_path_factory.mktemp("adapters"), base)


def test_adapters_are_named_or_take_the_name_of_their_folder(folders):
    first, second = folders["first"], folders["second"]
    assert parse_adapters([f"a={first}", str(second)]) == {"a": first, "second": second}
    odd = first.rename(first.parent / "x=y")
    assert parse_adapters([str(odd)]) == {"x=y": odd}
    odd.rename(first)
    with pytest.raises(UsageError, match="Two adapters are called 'first'"):
        parse_adapters([str(first), f"first={second}"])
    with pytest.raises(RunError, match="/no/such/folder"):
        parse_adapters(["a=/no/such/folder"])


def test_generate_answers_by_the_adapter(own_folder, base, folders, tmp_path, capsys):
    def run(adapter, *words):
        options = ("--adapter", folders[adapter], "--temperature", 0, "--max-tokens", 8)
        return cli(capsys, "generate", "--model", base, *options, *words)

    code, out, _ = run("first", "--prompt", "To be", "--json")
    answer = json.loads(out)["text"]
    with kgpt.load(folders["first"]) as merged:
        assert code == 0 and answer == merged.generate("To be", temperature=0, max_tokens=8).text
    prompts, target = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    prompts.write_text("To be\n")
    files = ("--input-file", prompts, "--output-file", target)
    assert run("first", *files)[0] == 0
    assert json.loads(target.read_text())["text"] == answer
    prompts.write_text("To be\nO\n")
    assert run("second", *files)[0] == 2  # completions of two adapters do not mix


def test_serve_loads_the_adapters_that_it_is_given(base, folders, capsys, monkeypatch):
    for name in ("prepare_process", "silence_native_code"):  # which take standard error away
        monkeypatch.setattr(f"kgpt.cli.serve.{name}", lambda *_: None)
    served = []

    def state_of(name, config, load):
        return SimpleNamespace(load=load, is_loading=False)

    def run_server(state, listener, keys):
        listener.close()
        with state.load() as generator:
            served.append({a.name: str(a.folder) for a in generator.adapters.loaded})
        return 0

    monkeypatch.setattr("kgpt.serving.state.ServerState", state_of)
    monkeypatch.setattr("kgpt.serving.server.run_server", run_server)

    def serve(*options):
        return cli(capsys, "serve", "--model", base, "--name", "fox", "--port", 0, *options)

    poet = ("--adapter", f"poet={folders['first']}")
    code, _, err = serve(*poet, "--adapter", folders["second"])
    assert code == 0, err
    assert served == [{"poet": str(folders["first"]), "second": str(folders["second"])}]
    code, _, err = serve(*poet, "--alias", "poet")
    assert code == 2 and "'poet' is the name of the model" in err
