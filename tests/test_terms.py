"""The code and its documents speak the field's words: terms that were coined here stay out.

Only names that are no ordinary words elsewhere are listed; the term to use stands beside each.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

IDENTIFIERS = {
    "WritingType": "InferenceDtype",
    "write_tokens": "decode_n_tokens",
    "TextEngine": "TextGenerator",
    "TextEvent": "GenerationChunk",
    "TextStream": "IncrementalDetokenizer",
    "StopScanner": "StopSequenceMatcher",
    "complete_many": "generate_batch",
    "load_to_write": "load_for_inference",
    "made_to_write": "build_for_inference",
    "_read_alone": "_prefill_one",
    "_read_together": "_prefill_batch",
    "write_checked": "verify_draft",
    "max_slots": "max_num_seqs",
    "max_rows": "max_num_seqs",
    "look_up": "prompt_lookup",
    "LONGEST": "MAX_NGRAM",
    "SHORTEST": "MIN_NGRAM",
    "FOREVER": "NO_LIMIT",
    "PULSE": "MAX_STEP_LATENCY_S",
    "penalise_written": "apply_presence_frequency_penalty",
    "penalise_repetition": "apply_repetition_penalty",
    "ban_phrases": "apply_bad_words",
    "block_ids": "mask_tokens",
    "likeliest": "most likely, argmax",
    "empty_cache": "init_kv_cache",
    "extend_cache": "plan_cache_update",
    "next_logits": "decode_step",
    "InEightBits": "Int8Weight",
    "InReadingOrder": "TransposedWeight",
    "EightBits": "Int8Weight",
    "looked_up": "embed",
    "holds_turned": "prefers_transposed_weights",
    "track_anew": "refresh_tracking",
    "lay_out_for_reading": "transpose_weights_inplace",
    "int8_product": "int8_matmul",
    "turned_product": "matmul_nt",
    "cache_targets": "cache_indices",
    "write_cache": "update_cache",
    "take_row": "slice_row",
    "put_row": "update_row",
    "put_column": "update_column",
    "gradient_of": "custom_gradient",
    "live_sync": "sync_model_state",
    "live_value": "read_optimizer_var",
    "live_assign": "assign_optimizer_var",
    "SHRINK": "CLIP_RATIOS",
    "DELICATE": "INT8_ONLY",
    "is_flipped": "is_transposed",
    "family_of": "model_type_of",
    "replies_only": "assistant_only_loss",
    "kv_heads": "num_kv_heads",
    "head_width": "head_dim",
    "feed_forward_width": "intermediate_dim",
    "clip_norm": "max_grad_norm",
    "hidden_slopes": "dhidden",
    "head_slope": "dhead",
    "log_total": "logsumexp",
    "UNDERFLOW_GUARD": "GRAD_SCALE",
    "_ForLanguageModels": "DecayMaskEMAMixin",
    "StatusKeeper": "StatusWriter",
    "_between_updates": "_mid_accumulation",
    "forget_after": "truncate_after",
    "permuted": "feistel_permutation",
    "document_starts": "document_offsets",
    "learnable": "loss_mask",
    "TrainBatches": "TrainDataset",
    "EvaluationBatches": "EvaluationDataset",
    "DocumentBatches": "DocumentDataset",
    "ChatFormat": "ChatMLTemplate",
    "TemplateFormat": "JinjaChatTemplate",
    "encode_with_spans": "encode_with_offsets",
    "new_folder": "atomic_dir",
    "Inexpressible": "UnsupportedTokenizer",
    "hang_up": "disconnect_rate",
    "ChatShape": "ChatCompletionFormat",
    "LIVELY": "ACTIVE_STATES",
    "RunFeed": "RunMonitor",
    "ClosesOnce": "DismissOnceMixin",
    "NONSENSE": "MALFORMED",
    "FAREWELL_S": "SHUTDOWN_TIMEOUT_S",
    "PATIENCE_S": "..._TIMEOUT_S",
}
PHRASES = {
    r"only writes": "inference",
    r"loaded to write": "loaded for inference",
    r"guess(es|ing)? ahead": "speculative decoding",
    r"held in (8|eight) bits": "int8",
    r"in (8|4) bits": "int8, int4",
    r"by characters": "character-level",
    r"chat layout": "chat template",
    r"whoever waits": "the others are suspended",
    r"what is written": "say it plainly",
    r"those that wait": "queued",
    r"lets? go of": "drops references to",
    r"how fast a model writes": "generation throughput",
    r"writes? (a |the )?texts?\b": "generates text",
    r"the likeliest": "the most likely",
    r"of (its|one's|kgpt's) own make": "say it plainly",
}
THIS = Path(__file__).name
# Reading what was written before today needs the names of then.
OLD_NAMES_ALLOWED = ("CHANGELOG.md", "renamed", "migration", "legacy", THIS)


def files() -> list[Path]:
    """Every text file of the project but pictures of the terminal and old data."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = listed.stdout.splitlines()
    paths = [ROOT / name for name in names] or [
        p for p in ROOT.rglob("*") if ".venv" not in p.parts
    ]
    kinds = (".py", ".md", ".yaml", ".yml", ".toml", ".html", ".tcss", ".ipynb", "")
    return [
        path
        for path in paths
        if path.is_file()
        and path.suffix in kinds
        and not any(part in str(path.relative_to(ROOT)) for part in OLD_NAMES_ALLOWED)
    ]


@pytest.fixture(scope="module")
def texts() -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8", errors="replace") for path in files()}


def occurrences(texts: dict[Path, str], pattern: str) -> list[str]:
    """Where a pattern occurs, as file:line."""
    compiled = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
        for path, text in texts.items()
        for match in compiled.finditer(text)
    ]


def test_the_project_is_read(texts: dict[Path, str]) -> None:
    assert len(texts) > 300


@pytest.mark.parametrize("name", IDENTIFIERS)
def test_a_coined_identifier_stays_out(texts: dict[Path, str], name: str) -> None:
    found = occurrences(texts, rf"(?<![\w.-]){re.escape(name)}(?!\w)")
    assert not found, f"use {IDENTIFIERS[name]}: {found[:5]}"


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_coined_phrase_stays_out(texts: dict[Path, str], phrase: str) -> None:
    found = occurrences(texts, rf"(?i)\b{phrase}\b")
    assert not found, f"better: {PHRASES[phrase]}: {found[:5]}"
