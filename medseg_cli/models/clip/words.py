"""Texts as tokens: a WordPiece vocabulary in a file, or the one that an open_clip model comes with."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg_cli.errors import InputError, ModelError
from medseg_cli.models.clip.config import ClipConfig
from medseg_cli.weights.vocabulary import NAMES

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LARGEST = 10_000
"""Characters of a text that are looked at."""


@dataclass(frozen=True, eq=False)
class Words:
    """Texts → tokens.

    Args:
        context: most tokens of a text.
        encode: text → its tokens with the first and last one, of any length.
        last: token that ends a text.
        unknown: text → its words that are no single token: a vocabulary of whole words has to spell them.
        whole: whether the network takes texts of `context` tokens alone, as open_clip's own text towers do.
    """

    context: int
    encode: Callable[[str], list[int]]
    last: int
    unknown: Callable[[str], list[str]]
    whole: bool = False

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, tuple[int, ...]]:
        """Tokens (T, L) int64, padded with 0 to the longest or to the context; and how many of each text were cut.

        Raises:
            InputError: an empty text.
        """
        rows, cut = [], []
        for text in texts:
            if not text.strip():
                raise InputError("an empty text describes nothing", 'say what to look for: --text "the lungs"')
            # What lies behind cannot reach the network; encoding megabytes to see that takes minutes.
            row = self.encode(text[:LARGEST])
            cut.append(max(0, len(row) - self.context))
            rows.append(row if len(row) <= self.context else [*row[: self.context - 1], self.last])
        longest = self.context if self.whole else max(map(len, rows), default=0)
        padded = [row + [0] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64).reshape(len(rows), longest), tuple(cut)


def words_of(config: ClipConfig, source: Path | Sequence[str] | None) -> Words:
    """The vocabulary of a network.

    Args:
        config: its sizes; an open_clip model brings its own vocabulary.
        source: `tokenizer.json` or `vocab.txt`, or the words themselves; None only where open_clip has them.

    Raises:
        ModelError: no file, one that is no vocabulary, or one of another size than the network's.
    """
    if config.open_clip:
        return _of_open_clip(config.open_clip)
    if source is None or (isinstance(source, Path) and not source.is_file()):
        raise ModelError(
            f"no vocabulary{f' {source}' if source else ''}: the text tower does not know its words",
            f"put the {' or '.join(NAMES)} that comes with the weights beside them",
        )
    return _of_words(source, config)


def check_open_clip(name: str) -> None:
    """Refuse, before anything is made, a model of open_clip that is not all in open_clip: it would download the rest.

    Raises:
        ModelError: unknown, or with the vocabulary or the text tower of another model.
    """
    import open_clip

    if name not in open_clip.list_models():
        raise ModelError(
            f"open_clip knows no model '{name}'", "its open_clip.list_models() lists them, such as ViT-B-16"
        )
    text = open_clip.get_model_config(name).get("text_cfg", {})
    if text.get("hf_tokenizer_name") or text.get("hf_model_name"):
        raise ModelError(
            f"the vocabulary of open_clip's {name} is not part of open_clip, and would have to be downloaded",
            "choose a model of CLIP's own vocabulary, such as ViT-B-16",
        )


def _of_open_clip(name: str) -> Words:
    import open_clip

    check_open_clip(name)
    tokenizer: Any = open_clip.get_tokenizer(name)
    first, last = getattr(tokenizer, "sot_token_id", None), getattr(tokenizer, "eot_token_id", None)
    if first is None or last is None:
        raise ModelError(
            f"the vocabulary of open_clip's {name} is not part of open_clip", "choose a model of CLIP's own vocabulary"
        )

    def encode(text: str) -> list[int]:
        return [first, *tokenizer.encode(text), last]

    def unknown(text: str) -> list[str]:
        return [word for word in text.split() if len(tokenizer.encode(word)) > 1]

    return Words(int(tokenizer.context_length), encode, int(last), unknown, whole=True)


def _of_words(source: Path | Sequence[str], config: ClipConfig) -> Words:
    import tokenizers

    file = source if isinstance(source, Path) else "the preset's list of words"
    try:
        if isinstance(source, Path) and source.suffix == ".json":
            made = tokenizers.Tokenizer.from_file(str(source))
        else:
            listed = source.read_text(encoding="utf-8").splitlines() if isinstance(source, Path) else source
            made = _wordpiece({word: number for number, word in enumerate(listed)})
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ModelError(f"{file} is no vocabulary: {error}", f"expected is {' or '.join(NAMES)}") from error
    made.no_truncation()
    made.no_padding()
    size = made.get_vocab_size(with_added_tokens=True)
    ids = {name: made.token_to_id(name) for name in SPECIAL[:4]}
    missing = [name for name, value in ids.items() if value is None]
    if size > config.vocabulary or missing or ids["[PAD]"] != 0:
        raise ModelError(
            f"{file} has {size} words{f' without {missing[0]}' if missing else ''}, "
            f"the network {config.vocabulary} with [PAD] first",
            "use the vocabulary that these weights were trained with",
        )

    def unknown(text: str) -> list[str]:
        found = made.encode(text[:LARGEST], add_special_tokens=False)
        words: dict[int | None, list[int]] = {}
        for place, word in enumerate(found.word_ids):
            words.setdefault(word, []).append(place)
        strange = [places for places in words.values() if len(places) > 1 or found.tokens[places[0]] == "[UNK]"]
        return [text[found.offsets[places[0]][0] : found.offsets[places[-1]][1]] for places in strange]

    return Words(config.context, lambda text: list(made.encode(text).ids), int(ids["[SEP]"] or 0), unknown)


def _wordpiece(vocabulary: dict[str, int]) -> Any:
    """BERT's uncased way: lower case, accents stripped, punctuation apart, words in known pieces."""
    from tokenizers import BertWordPieceTokenizer

    return BertWordPieceTokenizer(vocab=vocabulary, lowercase=True)._tokenizer


def learn_words(texts: Sequence[str], most: int) -> list[str]:
    """A vocabulary of the words in `texts` and of all their letters; `words_of` takes it.

    Words that it does not hold are spelt letter by letter. The same texts give the same vocabulary.

    Args:
        texts: captions.
        most: entries; rare words stay out.

    Raises:
        ValueError: not even the letters fit.
    """
    from tokenizers import normalizers, pre_tokenizers

    normal, split = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts = Counter(
        word for text in set(texts) for word, _ in split.pre_tokenize_str(normal.normalize_str(text)) if len(word) > 1
    )
    letters = sorted({*string.ascii_lowercase, *string.digits, *string.punctuation, *"".join(counts)})
    known = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    if len(known) > most:
        raise ValueError(f"{most} entries hold no {len(known)} letters")
    words = sorted(counts, key=lambda word: (-counts[word], word))
    return [*known, *[word for word in words if word not in letters][: most - len(known)]]
