"""A small CC-SAM, its preset and a table of two classes, as a user would have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

SIZES: dict[str, Any] = {
    "embed_dim": 48,
    "depth": 4,
    "num_heads": 4,
    "mlp_ratio": 2.0,
    "window_size": 8,
    "global_attn_indexes": [0, 1, 2, 3],
    "prompt_dim": 32,
    "mask_in_chans": 4,
    "decoder_mlp_dim": 32,
    "iou_dim": 16,
    "cnn_block": "basic",
    "cnn_layers": [1, 1, 1, 1],
    "cnn_stem": 8,
    "fusion_dim": 16,
    "latent_dim": 8,
    "text_dim": 12,
}
BANK = {
    "head": {
        "phrase": "fetal head",
        "names": ["skull of the fetus"],
        "descriptions": ["The head, an ellipse.", "A bright, closed line."],
    },
    "lesion": {"phrase": "breast lesion", "names": [], "descriptions": ["A dark mass with an uneven margin."]},
}


def vectors() -> dict[str, torch.Tensor]:
    """Embeddings of `BANK`, (3, 12) and (2, 12), all different."""
    drawn = torch.randn(5, 12, generator=torch.Generator().manual_seed(3))
    return {"head": drawn[:3].clone(), "lesion": drawn[3:].clone()}


def table(path: Path, bank: Any = None) -> Path:
    """A table file."""
    save_file(vectors(), path, {"medseg.texts": json.dumps(bank or BANK), "medseg.text_model": "by hand"})
    return path


def preset(folder: Path, model: dict[str, Any] | None = None, weights: Any = None, **options: Any) -> Path:
    """The preset, its table beside it where `options` name none."""
    folder.mkdir(parents=True, exist_ok=True)
    table(folder / "table.safetensors")
    content = {
        "name": "tiny-cc-sam",
        "title": "A small CC-SAM",
        "pipeline": "cc-sam",
        "modality": ["US"],
        "dims": 2,
        "model": {**SIZES, **(model or {})},
        "weights": weights,
        "preprocessing": {"intensity": {"method": "eight-bit"}},
        "prompts": {"kinds": ["point", "box", "mask", "text"], "minus": True, "whole_image": True},
        "labels": [{"value": 1, "name": "fetal head", "color": "#58d68d"}],
        "options": {"fit": "stretch", "scale": "byte", "text_table": "table.safetensors", **options},
        "licence": "Apache-2.0",
        "source": "tests/tiny_cc_sam.py",
    }
    path = folder / "tiny-cc-sam.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
