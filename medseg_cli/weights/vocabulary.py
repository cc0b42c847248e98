"""Vocabularies of text towers in the store: which words a network's numbers mean."""

from __future__ import annotations

import os
from pathlib import Path

from medseg_cli.errors import ModelError
from medseg_cli.weights import store

NAMES = ("tokenizer.json", "vocab.txt")
"""How vocabularies are called beside weights: Hugging Face's file, or one word a line."""
LARGEST = 64 * 2**20
"""Bytes; BERT's has less than one million."""


def files_of(name: str) -> tuple[Path, ...]:
    """Where the store keeps the vocabulary of those weights, present or not."""
    return tuple(store.folder() / f"{name}.{kind}" for kind in NAMES)


def is_vocabulary(path: Path) -> bool:
    """Whether a file is called as vocabularies are."""
    return path.name.endswith(NAMES)


def import_vocabulary(path: Path, name: str, *, overwrite: bool = False) -> Path:
    """Bring a vocabulary into the store, beside the weights that it belongs to; it need not be after them.

    Raises:
        ModelError: no such file, no vocabulary, no weights of that name, or another one is there.
    """
    if name not in store.known_names():
        raise (
            store.missing(name)
            if name
            else ModelError(
                f"{path.name} does not tell which weights it belongs to", "add --name, such as --name biomedclip"
            )
        )
    kind = next(kind for kind in NAMES if path.name.endswith(kind))
    try:
        if path.stat().st_size > LARGEST:
            raise ModelError(f"{path} has {path.stat().st_size} bytes, too many for a vocabulary")
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", "check the path") from error
    _check(path, content, kind)
    target = store.folder() / f"{name}.{kind}"
    if target.is_file() and target.read_bytes() != content and not overwrite:
        raise ModelError(f"weights '{name}' have another vocabulary in the store already", "use --overwrite")
    draft = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        os.replace(draft, target)
        for other in files_of(name):
            if other != target:
                other.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(
            f"cannot write {target}: {error.strerror or error}",
            "free some space, or let MEDSEG_HOME name another folder",
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return target


def _check(path: Path, content: bytes, kind: str) -> None:
    """Raises: ModelError, unless tokenizers could read it."""
    import tokenizers

    try:
        text = content.decode("utf-8")
        if kind == "vocab.txt":
            if not {"[CLS]", "[SEP]", "[UNK]", "[PAD]"} <= set(text.splitlines()):
                raise ValueError("it lacks one of [PAD], [UNK], [CLS], [SEP]")
        else:
            tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ModelError(f"{path} is no vocabulary: {error}", f"expected is {' or '.join(NAMES)}") from error
