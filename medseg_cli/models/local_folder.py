"""Models of transformers from a folder on this machine, for who asks of it not to talk and not to download."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.errors import ModelError, without_advice

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDICES = tuple(f"{name}.index.json" for name in WEIGHTS)


def kind_of(what: str, folder: Path, hint: str) -> str:
    """The `model_type` that a folder's configuration states, before anything else of it is opened.

    Args:
        what: is to be read, for people.
        folder: where it lies.
        hint: for the user.

    Raises:
        ModelError: no configuration or no weights, a damaged configuration, or a kind that transformers does not know.
    """
    from transformers import CONFIG_MAPPING, __version__

    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"{folder} holds no {what}: there is no config.json", hint)
    if not any((folder / name).is_file() for name in (*WEIGHTS, *_INDICES)):
        raise ModelError(f"{folder} holds no {what}: there is no {' or '.join(WEIGHTS)}", hint)
    said = _read_json(config, hint)
    kind = said.get("model_type") if isinstance(said, dict) else None
    if not isinstance(kind, str):
        raise ModelError(f"{config} states no kind of model (model_type)", hint)
    if kind not in CONFIG_MAPPING:
        raise ModelError(
            f"{config} is of a model of the kind {kind!r}, which transformers {__version__} does not know",
            "code beside a model is never run: give a model whose kind transformers has itself",
        )
    return kind


@contextmanager
def reading(what: str, folder: Path, hint: str) -> Iterator[None]:
    """Transformers without its messages and progress bars; whatever it raises becomes an error of ours.

    Args:
        what: is read, for people.
        folder: where it lies.
        hint: for the user.

    Raises:
        ModelError: a file is missing or damaged; names the file where one can be blamed.
    """
    from transformers.utils import logging

    shown, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # transformers raises anything from OSError to bare Exceptions
        _blame(folder, hint)
        if "ignore_mismatched_sizes" in str(error):
            raise ModelError(f"the weights in {folder} have other sizes than its config.json says", hint) from error
        raise ModelError(f"cannot read the {what} in {folder}: {without_advice(error)}", hint) from error
    finally:
        logging.set_verbosity(shown)
        if bars:
            logging.enable_progress_bar()


def refuse_lacking(lacking: list[str], folder: Path, hint: str) -> None:
    """What a file lacks transformers draws at random, and says nothing that anybody reads.

    Args:
        lacking: names of tensors that are missing, or have other sizes than the configuration says.
        folder: where the file lies.
        hint: for the user.

    Raises:
        ModelError: there are any.
    """
    if lacking:
        raise ModelError(f"the weights in {folder} lack {len(lacking)} tensors, such as {sorted(lacking)[:2]}", hint)


def check_vocabulary(tokenizer: Any, rows: int, folder: Path, hint: str) -> None:
    """Without its files transformers makes an empty vocabulary, to which every word is unknown, and says nothing.

    Args:
        tokenizer: of transformers, read from the folder.
        rows: words that the model has embeddings of.
        folder: where both lie.
        hint: for the user.

    Raises:
        ModelError: no file of the vocabulary, or one of another model.
    """
    files = sorted(set(tokenizer.vocab_files_names.values()))
    if not any((folder / name).is_file() for name in files):
        raise ModelError(f"{folder} holds no vocabulary: there is no {' or '.join(files)}", hint)
    if len(tokenizer) > rows:
        raise ModelError(
            f"the vocabulary in {folder} has {len(tokenizer)} words, its model takes {rows}: they are of two models",
            hint,
        )


def _blame(folder: Path, hint: str) -> None:
    """Look through the files of a folder that could not be read, for one that is damaged.

    Raises:
        ModelError: names it and what is wrong with it.
    """
    for path in sorted(folder.glob("*.json")):
        _read_json(path, hint)
    # Transformers takes the first that is there.
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is not None:
        read_tensors(weights)


def _read_json(path: Path, hint: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", hint) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no JSON: {error}", hint) from error
