"""Text in any encoding becomes the same text; what is no text is refused."""

import codecs
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.data.sources import Corpus
from kgpt.errors import DataError

GERMAN = "Das Café am Straßenrand öffnet früh. “Über den Fluß führt eine Brücke” – 5 €.\n" * 5
RUSSIAN = "Привет, мир! Как дела сегодня? Хорошо, спасибо.\n" * 5
JAPANESE = "日本語のテキストです。これはペンです。\n" * 5


def read(path, data, **options):
    """The text of a file with the bytes `data`, and the notes about its encoding."""
    path.write_bytes(data)
    corpus = Corpus([str(path)], val_fraction=0, **options)
    notes = [note for note in corpus.notes if "decoded from" in note]
    return "".join(part for document in corpus.documents() for part in document.parts), notes


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(GERMAN, "utf-8-sig"), (GERMAN, "utf-16"), (GERMAN, "utf-16-le"), (GERMAN, "utf-16-be"),
     (GERMAN, "utf-32"), (GERMAN, "cp1252"), (RUSSIAN, "cp1251"), (JAPANESE, "shift_jis")],
)  # fmt: skip
def test_the_encoding_of_a_text_is_detected_and_named(tmp_path, text, encoding):
    found, notes = read(tmp_path / "a.txt", text.encode(encoding))
    assert found == text
    (note,) = notes
    named = note.removeprefix(f"{tmp_path / 'a.txt'}: decoded from ")
    assert text.encode(encoding).decode(named) == text


@pytest.mark.parametrize("suffix", ["txt", "md", "jsonl", "json", "csv"])
def test_a_byte_order_mark_is_no_part_of_any_file(tmp_path, suffix):
    rows = {"jsonl": '{"text": "é"}\n', "json": '[{"text": "é"}]', "csv": "text\né\n"}
    data = codecs.BOM_UTF8 + rows.get(suffix, "é").encode()
    assert read(tmp_path / f"a.{suffix}", data)[0] == "é"


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_utf8_is_read_as_it_is(tmp_path_factory, text):
    found, notes = read(tmp_path_factory.mktemp("t") / "a.txt", text.encode())
    assert found == text.removeprefix("\ufeff")
    assert bool(notes) == text.startswith("\ufeff")


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n" + bytes(64), b"\x7fELF" + bytes(99),
                                  os.urandom(5000)])  # fmt: skip
def test_a_file_that_is_no_text_is_refused_by_name(tmp_path, data):
    with pytest.raises(DataError, match=r"a\.txt is not a text file"):
        read(tmp_path / "a.txt", data)


def test_damaged_utf8_is_refused_with_the_count_and_the_place(tmp_path):
    data = GERMAN.encode() + b"\xff\xfe" + GERMAN.encode()
    at = len(GERMAN.encode())
    with pytest.raises(DataError, match=rf"2 invalid bytes, the first at byte {at:,}; "):
        read(tmp_path / "a.txt", data)
    found, notes = read(tmp_path / "a.txt", data, encoding="utf-8")
    assert found == GERMAN + "\ufffd\ufffd" + GERMAN
    assert "2 characters could not be decoded" in notes[0]


def test_damage_is_found_at_any_place_between_the_parts_read(tmp_path, monkeypatch):
    monkeypatch.setattr("kgpt.data.encodings.PART_BYTES", 7)
    assert read(tmp_path / "a.txt", GERMAN.encode())[0] == GERMAN
    for at in range(20, 40):
        data = GERMAN.encode()[:at] + b"\xff" + GERMAN.encode()[at:]
        with pytest.raises(DataError, match="invalid byte"):
            read(tmp_path / "a.txt", data)


def test_the_encoding_can_be_given(tmp_path):
    assert read(tmp_path / "a.txt", "Ünï".encode("cp850"), encoding="cp850")[0] == "Ünï"
    with pytest.raises(DataError, match="'utf-9' is no encoding"):
        read(tmp_path / "a.txt", b"x", encoding="utf-9")
