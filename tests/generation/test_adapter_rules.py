"""Which adapters are loaded, and which are refused with a sentence."""

import json

import pytest

import kgpt
from kgpt import Tokenizer
from kgpt.errors import UsageError
from kgpt.generation.generator import TextGenerator
from tests.generation.adapters import FORMS, write_adapter, write_adapters, write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    return write_adapters(tmp_path_factory.mktemp("adapters"), base, FORMS)


def test_a_model_without_adapters_has_nothing_of_them(base):
    with TextGenerator(base) as generator:
        model = generator.model
        assert len(model.new_cache(2, 16)) == model.config.num_layers
        assert not any("lora" in variable.path for variable in model.variables)
        with pytest.raises(UsageError, match="no room for adapters"):
            generator.load_adapter("a", base)


def test_what_cannot_be_loaded(base, folders, tmp_path):
    large = write_adapter(tmp_path / "large", base, rank=17, target_modules="q_proj")
    with TextGenerator(base, adapters={"first": folders["first"]}, max_adapters=2) as generator:
        for name, folder, sentence in [
            ("first", folders["second"], "already been loaded"),
            ("", folders["second"], "needs a name"),
            ("base", base, "is not an adapter"),
            ("large", large, "rank 17, but max_lora_rank is 16"),
        ]:
            with pytest.raises(UsageError, match=sentence):
                generator.load_adapter(name, folder)
        generator.load_adapter("second", folders["second"])
        with pytest.raises(UsageError, match="room for max_adapters=2"):
            generator.load_adapter("dora", folders["dora"])
    two = {name: folders[name] for name in ("first", "second")}
    for options, sentence in [
        ({"max_adapters": 1}, "2 adapters were given"),
        ({"max_lora_rank": 2}, "rank 3, but max_lora_rank is 2"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            TextGenerator(base, adapters=two, **options)


def test_room_for_the_given_adapters_is_for_their_kind_alone(base, folders):
    with kgpt.load(base, adapters={"first": folders["first"]}) as generator:
        generator.adapters.unload("first")
        for name in ("second", "dora"):
            with pytest.raises(UsageError, match="set max_adapters"):
                generator.load_adapter(name, folders[name])


def test_an_adapter_has_its_own_chat_template(base, folders, tmp_path):
    """Where its folder has a tokenizer, which must be the model's otherwise."""
    model = kgpt.GPT.from_pretrained(base)
    kgpt.load_adapter(model, folders["first"])
    kgpt.save_adapter(model, tmp_path / "chat", Tokenizer.of_bytes())
    file = tmp_path / "chat" / "tokenizer_config.json"
    template = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))
    kgpt.save_adapter(model, tmp_path / "other", Tokenizer.of_characters("abc"))
    chat = [{"role": "user", "content": "hi"}]
    with TextGenerator(base, adapters={"a": tmp_path / "chat"}, max_adapters=2) as generator:
        own, models = (generator.chat_prompt(chat, adapter=name) for name in ("a", None))
        assert generator.tokenizer.decode(own) == "[hi]"
        assert generator.tokenizer.decode(models) != "[hi]"
        with pytest.raises(UsageError, match="another tokenizer"):
            generator.load_adapter("other", tmp_path / "other")
