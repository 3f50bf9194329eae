import pytest

from tests.cli.running import kgpt


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """Commands run in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KGPT_RESTARTED", "1")  # these commands run in the test's own process
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def text(tmp_path):
    """A small text file."""
    file = tmp_path / "text.txt"
    file.write_text("It was Monday. Anna went to the park.\n" * 200)
    return file


@pytest.fixture
def data(own_folder, text, tmp_path, capsys):
    """A data set of it, by bytes."""
    assert kgpt(capsys, "data", "prepare", text, "--out", "set", "--tokenizer", "byte")[0] == 0
    return tmp_path / "set"
