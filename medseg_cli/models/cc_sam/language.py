"""Sentences embedded by a BERT from a local folder, as our reconstruction of CC-SAM has it. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg_cli.errors import ModelError
from medseg_cli.models.local_folder import check_vocabulary, kind_of, reading, refuse_lacking

CONTEXT = 128
"""Most tokens of a sentence."""
_HINT = "a folder as transformers saves it: config.json, model.safetensors, and tokenizer.json or vocab.txt"


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A frozen BERT and its tokenizer.

    Args:
        name: for people.
        model, tokenizer: of transformers.
        context: most tokens.
    """

    name: str
    model: Any
    tokenizer: Any
    context: int

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, tuple[int, ...]]:
        """Embeddings (T, E), the mean of the last layer over a text's tokens; and how many tokens of each were cut."""
        rows, cut = [], []
        for text in texts:
            whole = self.tokenizer(text, add_special_tokens=True)["input_ids"]
            cut.append(max(0, len(whole) - self.context))
            # One by one: in a batch, padding would change the last digits.
            tokens = self.tokenizer(text, truncation=True, max_length=self.context, return_tensors="pt")
            with torch.inference_mode():
                last = self.model(**tokens).last_hidden_state[0]
            kept = tokens["attention_mask"][0, :, None].to(last)
            rows.append((last * kept).sum(0) / kept.sum())
        return torch.stack(rows).float().clone(), tuple(cut)


def read_language_model(folder: Path) -> LanguageModel:
    """A BERT, such as MedBERT, with its tokenizer.

    Raises:
        ModelError: no such folder, a file in it is missing or damaged, its weights lack something, or it reads no text.
    """
    from transformers import AutoModel, AutoTokenizer

    kind = kind_of("language model", folder, _HINT)
    with reading("language model", folder, _HINT):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, facts = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    # Published BERTs lack the pooler, which nothing here reads.
    wanted = [key for key in facts["missing_keys"] if not key.startswith("pooler.")]
    refuse_lacking([*wanted, *(key for key, *_ in facts["mismatched_keys"])], folder, _HINT)
    if model.main_input_name != "input_ids":
        raise ModelError(f"{folder} holds a model of the kind {kind}, which reads no text", _HINT)
    check_vocabulary(tokenizer, int(model.config.get_text_config().vocab_size), folder, _HINT)
    positions = getattr(model.config, "max_position_embeddings", CONTEXT)
    found = LanguageModel(folder.resolve().name, model.eval().float(), tokenizer, min(CONTEXT, int(positions)))
    # A vocabulary without its special words, or a decoder that waits for more, shows at the first text only.
    with reading("language model", folder, _HINT):
        rows, _ = found(["text"])
    if not bool(rows.isfinite().all()):
        raise ModelError(f"the language model in {folder} answers with numbers that are not finite", _HINT)
    return found
