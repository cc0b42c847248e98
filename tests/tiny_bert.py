"""A BERT of 12 numbers with random weights, saved as transformers saves one."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = "the head a bright closed line dark mass fetal breast lesion skull of fetus an ellipse with uneven margin , ."
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split())


def save(folder: Path) -> Path:
    """Write model and tokenizer, with vocab.txt beside tokenizer.json."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 24}
    BertModel(BertConfig(vocab_size=len(VOCABULARY), **sizes), add_pooling_layer=False).save_pretrained(folder)
    return folder
