"""Another choice of weights for a preset: by name in the store, or a file of the user's own."""

from __future__ import annotations

from pathlib import Path

from medseg_cli.errors import ModelError
from medseg_cli.preset import Preset
from medseg_cli.preset_weights import SUFFIXES, CatalogueWeights, ShippedWeights
from medseg_cli.weights import store
from medseg_cli.weights.catalogue import entry


def override(preset: Preset, text: str) -> Preset:
    """The preset with other weights; licence, source, citation and what was measured are theirs, as far as known.

    Args:
        preset: any; whether the weights fit its model shows when they are loaded.
        text: a name that `medseg weights list` shows, or the path of a checkpoint file, or of a folder with one, as
            hubs have it. A name comes first: write `./medsam` for a file of that name.

    Raises:
        ModelError: neither a known name nor a checkpoint file.
    """
    if text in store.known_names():
        return _by_name(preset, text)
    path = Path(text).expanduser()
    if path.is_dir():
        from medseg_cli.weights.importer import checkpoint_in

        path = checkpoint_in(path)
    if not path.name.endswith(SUFFIXES):
        if path.exists() or len(path.parts) > 1:
            raise ModelError(f"{path} is no checkpoint file", f"weights end with {', '.join(SUFFIXES)}")
        raise store.missing(text)
    if not path.is_file():
        raise ModelError(f"there is no weights file {path}", "check the path; `medseg weights list` shows known names")
    return _changed(preset, ShippedWeights(file=str(path.resolve())), "not stated", path.name, "")


def _by_name(preset: Preset, name: str) -> Preset:
    known, listed = store.record(name), entry(name)
    if known is None and listed is None:
        beside = store.shipped()[name]
        weights = ShippedWeights(file=str(beside.weights_file), sha256=beside.weights_sha256)
        return _changed(preset, weights, beside.licence, beside.source, beside.citation)
    stored = CatalogueWeights(name=name)
    if listed is not None:
        return _changed(preset, stored, listed.licence, listed.page, listed.citation)
    assert known is not None
    return _changed(preset, stored, known.licence, known.source, "")


def _changed(
    preset: Preset, weights: ShippedWeights | CatalogueWeights, licence: str, source: str, citation: str
) -> Preset:
    known = {"licence": licence, "source": source, "citation": citation}
    return preset.model_copy(update={"weights": weights, **known, "accuracy": (), "bf16": None})
