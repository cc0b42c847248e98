"""Where a training of SAMUS begins: with SAM, or a SAMUS; and loading what it made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.models import tuned_file
from medseg_cli.models.samus.checkpoint import HINT, LAYOUT, build, fitted, random_network, tensors_of
from medseg_cli.models.samus.config import GRID, SamusConfig, config_of
from medseg_cli.models.samus.network import TRAINED, Samus
from medseg_cli.models.strict import check_fit
from medseg_cli.models.vit import resized
from medseg_cli.weights.layouts import identify


def begin(values: Mapping[str, Any], seed: int, files: Sequence[Path] = ()) -> tuple[Samus, Collection[str]]:
    """A network to train: drawn from `seed`, then overwritten by what the file holds.

    Args:
        values: the configuration, by the names of `SamusConfig`.
        seed: of the parts that no file covers. They do not begin at zero: with SAM's weights the network is not SAM.
        files: none or one: a SAM of the transformer's size at 1024 pixels, a SAMUS, or what a training made of one.

    Returns:
        The network, and the names of its parameters that the file does not cover.

    Raises:
        ModelError: a file of another layout or of other sizes, with the first differing keys.
    """
    if not files:
        network = random_network(config_of(values), seed)
        return network, frozenset(name for name, _ in network.named_parameters())
    assert len(files) == 1
    tuned = tuned_file.read(files[0], values, begin)
    if tuned is not None:
        assert isinstance(tuned, Samus)
        return tuned, frozenset()
    if identify(read_tensors(files[0])).layout == LAYOUT:
        return fitted(files[0], values, LAYOUT, Samus), frozenset()
    network = random_network(config_of(values), seed)
    weights = from_sam(tensors_of(files[0], "sam-"), network.config)
    own = network.state_dict()
    new = {key for key in own if key not in weights and any(part in key for part in TRAINED)}
    check_fit({key: value for key, value in own.items() if key not in new}, weights, files[0], LAYOUT, HINT)
    network.load_state_dict(weights, strict=False)
    return network, frozenset(new)


def is_samus(file: Path) -> bool:
    """Whether a file holds all of a SAMUS: it is one, or what a training made of one. A SAM is not.

    Raises:
        ModelError: no checkpoint.
    """
    return tuned_file.opened(file) is not None or identify(read_tensors(file)).layout == LAYOUT


def from_sam(state: Mapping[str, Tensor], config: SamusConfig) -> dict[str, Tensor]:
    """SAM's tensors for SAMUS's 32 x 32 tokens.

    The tables of relative positions of global blocks (127, d) become (63, d) by linear interpolation; absolute
    positions stay (1, 64, 64, C), the position adapter halves them. Blocks are told by their number. (The official code
    takes every table in whose name a digit of 2, 5, 8 or 11 stands, and so cannot load ViT-L or ViT-H.)
    """
    changed = {
        f"image_encoder.blocks.{block}.attn.rel_pos_{axis}" for block in config.global_attn_indexes for axis in "hw"
    }
    return {key: resized(value.float(), 2 * GRID - 1) if key in changed else value for key, value in state.items()}


load = tuned_file.loader(build, begin)
"""As `checkpoint.build`, also of the difference that a training wrote."""
