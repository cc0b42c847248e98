"""Where a training of AutoSAMUS begins: with a trained SAMUS; and loading what it made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.models import tuned_file
from medseg_cli.models.samus import start
from medseg_cli.models.samus.auto import TRAINED, AutoSamus
from medseg_cli.models.samus.checkpoint import AUTO_LAYOUT, build_auto, fitted, prompting_itself
from medseg_cli.models.samus.network import Samus
from medseg_cli.weights.layouts import identify


def begin(values: Mapping[str, Any], seed: int, files: Sequence[Path] = ()) -> tuple[AutoSamus, Collection[str]]:
    """A network to train: drawn from `seed`, then overwritten by what the file holds.

    Args:
        values: the configuration, by the names of `SamusConfig`.
        seed: of the parts that no file covers: the generator of prompts and the feature adapter, at least.
        files: none or one: a SAMUS, what a training made of one, an AutoSAMUS, or a SAM, of which most is then left
            to be trained.

    Returns:
        The network, and the names of its parameters that the file does not cover.

    Raises:
        ModelError: a file of another layout or of other sizes, with the first differing keys.
    """
    if files and _prompts_itself(files[0]):
        tuned = tuned_file.read(files[0], values, begin)
        if tuned is None:
            return fitted(files[0], values, AUTO_LAYOUT, lambda sizes: AutoSamus(Samus(sizes))), frozenset()
        assert isinstance(tuned, AutoSamus)
        return tuned, frozenset()
    samus, fresh = start.begin(values, seed, files)
    network = prompting_itself(samus, seed)
    return network, {*fresh, *(name for name, _ in network.named_parameters() if name.startswith(TRAINED))}


def is_trained(file: Path) -> bool:
    """Whether a file holds all of a SAMUS's encoder, so that nothing of it is left to be trained. A SAM does not.

    Raises:
        ModelError: no checkpoint.
    """
    return _prompts_itself(file) or start.is_samus(file)


def _prompts_itself(file: Path) -> bool:
    """Whether a file holds an AutoSAMUS, or what a training changed to make one."""
    if tuned_file.opened(file) is None:
        return identify(read_tensors(file)).layout == AUTO_LAYOUT
    return any(name.startswith(TRAINED) for name in read_tensors(file))


load = tuned_file.loader(build_auto, begin)
"""As `checkpoint.build_auto`, also of the difference that a training wrote."""
