"""Texts as tokens: vocabularies in files, of open_clip, and learnt from captions."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg_cli.errors import InputError, ModelError
from medseg_cli.models.clip.config import ClipConfig
from medseg_cli.models.clip.network import build_network
from medseg_cli.models.clip.words import learn_words, words_of

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "lung", "##s", "in", "an", "x", "-", "ray", "."]
SIZES = {"vocabulary": 14, "context": 8, "positions": 8, "text_width": 12, "text_heads": 2}


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n")
    return path


def test_words_are_split_as_bert_splits_them(vocabulary: Path) -> None:
    tokens, cut = words_of(ClipConfig(**SIZES), vocabulary)(["The Lungs.", "IN"])

    assert tokens.tolist() == [[2, 5, 6, 7, 13, 3], [2, 8, 3, 0, 0, 0]]
    assert cut == (0, 0)


def test_the_same_tokens_as_transformers(vocabulary: Path) -> None:
    from transformers import BertTokenizer

    text = "Lungs in an X-ray: thé xylophone"
    expected = BertTokenizer(vocab=str(vocabulary), do_lower_case=True)(text)["input_ids"]

    tokens, _ = words_of(ClipConfig(**{**SIZES, "context": 64, "positions": 64}), vocabulary)([text])

    assert tokens[0].tolist() == expected


def test_long_texts_are_cut_and_counted(vocabulary: Path) -> None:
    tokens, cut = words_of(ClipConfig(**SIZES), vocabulary)(["lung " * 20])

    assert tokens.tolist() == [[2, 6, 6, 6, 6, 6, 6, 3]]
    assert cut == (14,)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_text_is_refused(text: str, vocabulary: Path) -> None:
    with pytest.raises(InputError, match="empty text"):
        words_of(ClipConfig(**SIZES), vocabulary)([text])


@pytest.mark.parametrize("content", ["", "[CLS]\nlung\n", "{}"])
def test_what_is_no_vocabulary_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / ("tokenizer.json" if content == "{}" else "vocab.txt")
    path.write_text(content)

    with pytest.raises(ModelError):
        words_of(ClipConfig(**SIZES), path)


def test_a_missing_vocabulary_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no vocabulary") as caught:
        words_of(ClipConfig(**SIZES), tmp_path / "vocab.txt")
    assert "tokenizer.json or vocab.txt" in caught.value.hint


def test_a_larger_vocabulary_than_the_network_is_refused(vocabulary: Path) -> None:
    with pytest.raises(ModelError, match="14 words"):
        words_of(ClipConfig(**{**SIZES, "vocabulary": 13}), vocabulary)


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "roberta-ViT-B-32"])
def test_nothing_of_open_clip_is_downloaded(name: str) -> None:
    """Asked for their vocabularies, open_clip goes to the network, and without one speaks of web addresses."""
    for made in (lambda: words_of(ClipConfig(open_clip=name), None), lambda: build_network(ClipConfig(open_clip=name))):
        with pytest.raises(ModelError, match=f"vocabulary of open_clip's {name} is not part of open_clip"):
            made()


def test_open_clip_brings_its_own_vocabulary() -> None:
    import open_clip

    words = words_of(ClipConfig(open_clip="ViT-B-16"), None)
    tokens, cut = words(["a chest radiograph", "the lungs"])

    expected = open_clip.get_tokenizer("ViT-B-16")(["a chest radiograph", "the lungs"])
    assert tokens.tolist() == expected[:, : tokens.shape[1]].tolist()
    assert not expected[:, tokens.shape[1] :].any()
    assert words(["lung " * 200])[1] == (202 - 77,)
    assert cut == (0, 0)


def test_a_learnt_vocabulary_is_the_same_again_and_knows_its_words() -> None:
    texts = ["the lungs in a chest radiograph", "a fetal head in an ultrasound picture", "nuclei"]
    learnt = learn_words(texts, 200)

    words = words_of(ClipConfig(**{**SIZES, "vocabulary": len(learnt), "context": 32, "positions": 32}), learnt)
    tokens, _ = words(texts)

    assert learn_words([*reversed(texts), texts[0]], 200) == learnt
    assert 1 not in tokens  # no unknown word
    assert tokens.shape[1] == 9  # each of the seven words of the longest is one token
    assert tokens[:, 0].tolist() == [2, 2, 2]
    assert 1 not in words(["a kidney"])[0]  # spelt
    assert len(learn_words(texts, 150)) == 150
