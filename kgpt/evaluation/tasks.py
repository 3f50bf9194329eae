"""Tasks of lm-evaluation-harness, run in this process on kgpt's engine.

`TaskModel` answers what lm-eval asks of a model; its `simple_evaluate` does the rest: prompts,
few-shot examples, metrics and standard errors are its own.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.utils import (
    get_rolling_token_windows,
    handle_non_serializable,
    make_disjoint_window,
)
from tqdm import tqdm

from kgpt.config import SamplingConfig
from kgpt.errors import DataError, UsageError
from kgpt.generation.continuations import make_continuation, score_continuations

if TYPE_CHECKING:
    from kgpt.generation.generator import TextGenerator

MAX_GENERATED = 256  # tokens, where a task does not say; as in lm-eval
SAMPLING_OPTIONS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
SUFFIXES = (".yaml", ".yml")
UNUSED_OPTIONS = ("do_sample", "num_beams", "use_cache")
MISSING_DATA = (
    "ConnectionError",
    "DatasetNotFoundError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
)


class TaskModel(TemplateLM):
    """A text generator as lm-eval uses models.

    Args:
        generator: of the model.
    """

    def __init__(self, generator: TextGenerator):
        super().__init__()
        self._generator = generator

    # -- tokens ---------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self._generator.tokenizer.eos_id or 0

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context: that which begins texts, or ends them."""
        tokenizer = self._generator.tokenizer
        bos_id = tokenizer.token_to_id(tokenizer.special_tokens.tokens.get("bos_token", ""))
        return self.eot_token_id if bos_id is None else bos_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids; the names of special tokens, which chat templates write, are those tokens."""
        tokenizer = self._generator.tokenizer
        ids = tokenizer.encode(string, allow_special=True)
        bos_ids = [] if add_special_tokens is False else tokenizer.bos_ids
        return ids if ids[: len(bos_ids)] == bos_ids else [*bos_ids, *ids]

    # -- requests -------------------------------------------------------------------------------

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """See `TemplateLM.loglikelihood`; without a second bar of progress."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Of each (_, context, continuation): log-likelihood, and whether it is greedy's."""
        generator, limit = self._generator, self._generator.max_context
        if longest := max((len(ids) for _, _, ids in requests if len(ids) > limit), default=0):
            raise UsageError(
                f"A continuation has {longest} tokens, but the model's context is {limit}; "
                "choose another task."
            )
        continuations = [
            make_continuation(number, context, ids, limit)
            for number, (_, context, ids) in enumerate(requests)
        ]
        with tqdm(total=len(continuations), desc="log-likelihoods", disable=None) as bar:
            run = generator.engine.call
            return score_continuations(generator.model, continuations, limit, run, bar.update)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihoods of whole texts, in windows of the model's context."""
        windows: list[tuple[Any, list[int], list[int]]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            found = get_rolling_token_windows(
                self.tok_encode(request.args[0]),
                self.prefix_token_id,
                max_seq_len=self._generator.max_context,
                context_len=1,
            )
            for context, ids in map(make_disjoint_window, found):
                windows.append((None, context, ids))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += logprob
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The texts that continue contexts, up to a stop string; those of one task in a batch."""
        found = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        for numbers in groups.values():
            sampling = sampling_of(requests[numbers[0]].args[1])
            room = self._generator.max_context - sampling.max_tokens
            if room < 1:
                raise UsageError(
                    f"A task generates {sampling.max_tokens} tokens, but the model's context is "
                    f"{self._generator.max_context}; choose another task."
                )
            prompts = [self.tok_encode(requests[number].args[0])[-room:] for number in numbers]
            with tqdm(total=len(prompts), desc="texts", disable=None) as bar:
                completions = self._generator.generate_batch(
                    prompts, sampling, on_done=lambda *_: bar.update()
                )
            for number, completion in zip(numbers, completions, strict=True):
                found[number] = completion.text
        return found

    # -- chat templates -------------------------------------------------------------------------

    @property
    def tokenizer_name(self) -> str:
        return self._generator.tokenizer.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self._generator.tokenizer.special_tokens.chat_template if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text, up to where the assistant's answer begins or goes on."""
        template = self._generator.chat_template
        if template is None:
            raise UsageError(
                f"{self._generator.folder} has no chat template; leave --apply-chat-template out."
            )
        ids, _ = template.encode(
            chat_history, add_generation_prompt, continue_final_message=not add_generation_prompt
        )
        bos_ids = self._generator.tokenizer.bos_ids
        ids = ids[len(bos_ids) :] if ids[: len(bos_ids)] == bos_ids else ids
        return self._generator.tokenizer.decode(ids, skip_special_tokens=False)


def sampling_of(options: dict[str, Any]) -> SamplingConfig:
    """The generation options of a task as kgpt's; greedy unless it samples.

    Raises:
        UsageError: an option is one that kgpt does not have.
    """
    given = dict(normalize_gen_kwargs(options, MAX_GENERATED))
    values: dict[str, Any] = {
        "max_tokens": given.pop("max_gen_toks"),
        "stop": [stop for stop in given.pop("until") if stop],
        "seed": 0,
    }
    values |= {name: given.pop(name) for name in SAMPLING_OPTIONS if name in given}
    if unknown := [name for name in given if name not in UNUSED_OPTIONS]:
        raise UsageError(f"A task asks for the generation option {unknown[0]}, which is unknown.")
    return SamplingConfig.parse(values, "generation_kwargs")


def run_tasks(
    generator: TextGenerator,
    tasks: Sequence[str],
    num_fewshot: int | None = None,
    limit: int | None = None,
    apply_chat_template: bool = False,
) -> dict[str, Any]:
    """Run tasks of lm-eval; its results as JSON values.

    Args:
        tasks: names, or YAML files that describe tasks.
        num_fewshot: examples before each question; as each task says when not given.
        limit: questions of each task, the first ones; all when not given.
        apply_chat_template: ask as a user in a conversation.

    Raises:
        UsageError: there is no such task. DataError: its data are neither in the cache nor can they
            be downloaded.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    files = [Path(name) for name in tasks if name.endswith(SUFFIXES)]
    names = [_name_in(Path(name)) if name.endswith(SUFFIXES) else name for name in tasks]
    manager = TaskManager(include_path=sorted({str(file.resolve().parent) for file in files}))
    if unknown := [name for name in names if not manager.match_tasks([name])]:
        raise UsageError(
            f"There is no task {unknown[0]!r}; `lm_eval ls tasks` lists them, and a YAML file "
            "describes one of your own."
        )
    try:
        results = simple_evaluate(
            TaskModel(generator),
            tasks=names,
            num_fewshot=num_fewshot,
            limit=limit,
            apply_chat_template=apply_chat_template,
            task_manager=manager,
            log_samples=False,
        )
    except FileNotFoundError as error:
        raise DataError(f"The data of {', '.join(tasks)} cannot be read: {error}.") from None
    except Exception as error:
        if type(error).__name__ not in MISSING_DATA:
            raise
        raise DataError(
            f"The data of {', '.join(tasks)} are not in the cache and cannot be downloaded: run "
            "the command once with a network, or copy the cache of datasets (HF_HOME) here "
            f"({str(error).splitlines()[0][:200]})."
        ) from None
    values: dict[str, Any] = json.loads(json.dumps(results, default=handle_non_serializable))
    return values


class _TaskLoader(yaml.SafeLoader):
    """Reads the YAML of a task, whose functions (`!function`) are of no concern here."""


_TaskLoader.add_multi_constructor("!", lambda loader, suffix, node: None)


def _name_in(file: Path) -> str:
    """The name of the task that a YAML file describes."""
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _TaskLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{file} cannot be read: {' '.join(str(error).split())}.") from None
    name = values.get("task") if isinstance(values, dict) else None
    if not isinstance(name, str):
        raise UsageError(f"{file} describes no task; it needs a key `task` with its name.")
    return name
