"""Weights: what is published where, what is in the local store, and how it gets there. Nothing downloads by itself."""

from medseg_cli.weights.base import resolve
from medseg_cli.weights.catalogue import CATALOGUE, Entry
from medseg_cli.weights.store import ResolvedWeights, path

__all__ = ["CATALOGUE", "Entry", "ResolvedWeights", "path", "resolve"]
