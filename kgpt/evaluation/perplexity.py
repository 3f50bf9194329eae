"""Perplexity of a model directory: what quantization costs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from kgpt.data.shards import TokenDataset, TokenStream
from kgpt.errors import UsageError
from kgpt.evaluation.documents import EncodedDocument
from kgpt.evaluation.statistic import MAX_EXPONENT
from kgpt.evaluation.windows import windows


def perplexity(
    folder: Path, stream: TokenStream, max_tokens: int, loss_mask: TokenStream | None = None
) -> float:
    """exp(mean loss) of a model directory over the first `max_tokens` tokens of `stream`.

    A quantized directory computes in its own format, as in inference.
    The stream is cut into windows of the model's context length that do not overlap. With
    `loss_mask`, only the tokens it marks count.
    """
    from kgpt.checkpoints.pretrained import load_model
    from kgpt.checkpoints.quantized import stored_dtype
    from kgpt.evaluation.likelihood import ModelScorer

    places = np.arange(min(len(stream), max_tokens + 1))
    mask = places > 0 if loss_mask is None else (places > 0) & (loss_mask.take(places) > 0)
    document = EncodedDocument(stream.take(places), mask, 0, 0)
    scorer = ModelScorer(load_model(folder, weight_format=stored_dtype(folder)))
    losses = scorer.losses(list(windows(document, 0, scorer.context)))
    return math.exp(min(losses.sum() / max(1, mask.sum()), MAX_EXPONENT))


def validation_tokens(source: str, folder: Path) -> tuple[TokenStream, TokenStream | None]:
    """The tokens to evaluate on, and their loss mask if they are conversations.

    Args:
        source: a data set, of which the validation split is used, or a text file.
        folder: the model directory with the tokenizer.

    Raises:
        UsageError: fewer than two tokens, or the data set was made with another tokenizer; or the
            model is a classifier.
    """
    from kgpt.checkpoints.classifier_head import ClassifierHead
    from kgpt.checkpoints.pretrained import load_tokenizer

    ClassifierHead.refuse(folder, "which has no perplexity; leave --data out.")
    tokenizer, loss_mask = load_tokenizer(folder), None
    if Path(source).is_file():
        text = Path(source).read_text(encoding="utf-8", errors="replace")
        stream = TokenStream([np.array(tokenizer.encode(text), dtype="int64")])
    else:
        data = TokenDataset(source)
        if data.tokenizer.fingerprint != tokenizer.fingerprint:
            raise UsageError(
                f"{source} was made with another tokenizer than the model's; give a text file, or "
                f"prepare the text with --tokenizer {folder}."
            )
        stream, loss_mask = data.tokens("val"), data.loss_mask("val")
    if len(stream) < 2:
        raise UsageError(f"{source} has too little text to measure perplexity on; give more.")
    return stream, loss_mask
