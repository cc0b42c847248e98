"""Models of transformers from a folder on this machine, for who asks of it not to talk and not to download."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg_cli.errors import ModelError


@contextmanager
def reading(what: str, folder: Path, hint: str) -> Iterator[None]:
    """Transformers without its messages and progress bars; whatever it raises becomes an error of ours.

    Args:
        what: is read, for people.
        folder: where it lies.
        hint: for the user.

    Raises:
        ModelError: a file is missing or damaged.
    """
    from transformers.utils import logging

    shown, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # transformers raises anything from OSError to bare Exceptions
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"cannot read the {what} in {folder}: {why}", hint) from error
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
