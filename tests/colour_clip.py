"""An image-text network whose answers are known beforehand: it was built by hand and understands colours.

A picture's features are how much red, green and blue there is in its patches, a text's features the colours that its
words name. All attention is even, most weights are zero: what counts is the mean over patches, or over words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from medseg_cli.models.clip.checkpoint import random_network
from medseg_cli.models.clip.config import ClipConfig
from medseg_cli.models.clip.network import Clip
from medseg_cli.models.clip.words import SPECIAL
from medseg_cli.preset import Preset, load

COLOURS: dict[str, tuple[float, float, float, float]] = {
    "red": (1.0, 0.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0, 0.0),
    "blue": (0.0, 0.0, 1.0, 0.0),
    "bright": (1.0, 1.0, 1.0, 0.0),
    "nothing": (0.0, 0.0, 0.0, 1.0),
}
WORDS = [*SPECIAL, *COLOURS, "the", "a", "thing", "very", "=", ",", "."]
PATCH = 8
MODEL: dict[str, Any] = {
    "image_size": 64,
    "patch_size": PATCH,
    "width": 8,
    "depth": 3,
    "heads": 1,
    "vocabulary": len(WORDS),
    "context": 16,
    "positions": 16,
    "text_width": 8,
    "text_depth": 1,
    "text_heads": 1,
    "embed": 4,
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
}
ROOM = 0.3
"""What a black patch says, along the fourth feature, where a coloured one says 1 along its own."""
QUIET = 0.03
"""How little black patches count in the features of a picture: half a patch of a colour weighs as much as they all."""


def network() -> Clip:
    """The network; features (red, green, blue, nothing) lie in pairs +x, -x, which layer norms leave in place."""
    model = random_network(ClipConfig(**MODEL), 0)
    assert isinstance(model, Clip)
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    for name in state:
        if "norm" in name.lower() and name.endswith("weight"):
            state[name].fill_(1)
    trunk = "visual.trunk."
    for colour in range(3):
        state[trunk + "patch_embed.proj.weight"][2 * colour, colour] = 1 / PATCH**2
        state[trunk + "patch_embed.proj.weight"][2 * colour + 1, colour] = -1 / PATCH**2
    state[trunk + "patch_embed.proj.bias"][6:] = torch.tensor([ROOM, -ROOM])
    state[trunk + "cls_token"][..., 6:] = torch.tensor([ROOM, -ROOM])
    # Values pass as they are; the last block alone brings them to the class token.
    state[trunk + "blocks.2.attn.qkv.weight"][16:] = torch.eye(8)
    state[trunk + "blocks.2.attn.proj.weight"] = 20 * torch.eye(8)
    pairs = torch.zeros(4, 8)
    for feature in range(4):
        pairs[feature, 2 * feature], pairs[feature, 2 * feature + 1] = 0.5, -0.5
    state["visual.head.proj.weight"] = pairs * torch.tensor([1, 1, 1, QUIET])[:, None]
    text = "text.transformer."
    for number, word in enumerate(WORDS):
        state[text + "embeddings.word_embeddings.weight"][number] = (
            2 * torch.tensor(COLOURS.get(word, (0.0, 0.0, 0.0, 0.0))) @ pairs
        )
    layer = text + "encoder.layer.0.attention."
    state[layer + "self.value.weight"] = torch.eye(8)
    state[layer + "output.dense.weight"] = torch.eye(8)
    # Far from zero the bend between the two linear maps is straight.
    state["text.proj.0.weight"][:4] = 100 * pairs
    state["text.proj.2.weight"][:, :4] = torch.eye(4)
    state["logit_scale"] = torch.tensor(100.0).log()
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def preset(folder: Path, **changes: Any) -> Preset:
    """The preset of this network with its weights, as a user would write one into `folder`; `changes` by section."""
    folder.mkdir(parents=True, exist_ok=True)
    state: dict[str, Tensor] = {name: value.contiguous() for name, value in network().state_dict().items()}
    save_file(state, folder / "colours.safetensors")
    data: dict[str, Any] = {
        "name": "colours",
        "title": "whatever has a colour",
        "pipeline": "medclip-sam",
        "modality": ["any"],
        "dims": 2,
        "model": MODEL,
        "weights": {"file": "colours.safetensors"},
        "preprocessing": {"intensity": {"method": "eight-bit"}},
        "prompts": {"kinds": ["text"]},
        "labels": [{"value": 1, "name": "object", "color": "#f4d03f"}],
        "licence": "Apache-2.0",
        "source": "tests/colour_clip.py",
    }
    options = {
        "words": WORDS,
        "saliency": {"method": "gradcam", "layer": 1},
        "presence": {"negatives": ["nothing"], "slope": 0.2},
    }
    data |= {key: value for key, value in changes.items() if key != "options"}
    data["options"] = options | changes.get("options", {})
    path = folder / "colours.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load(path)
