"""Loading image-text weights strictly, in any of the four ways in which BiomedCLIP's are published (section 9.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.errors import ModelError
from medseg_cli.models.clip.config import ClipConfig, config_of
from medseg_cli.models.clip.network import build_network
from medseg_cli.models.strict import load_strictly
from medseg_cli.weights.layouts import identify

HINT = "expected are BiomedCLIP's names, open_clip's or the Hugging Face ones, and the sizes of the preset's model"

_WHOLE = (
    (r"vision_model\.embeddings\.class_embedding", "visual.trunk.cls_token"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.trunk.pos_embed"),
    (r"vision_model\.embeddings\.patch_embedding\.(weight|bias)", r"visual.trunk.patch_embed.proj.\1"),
    (r"vision_model\.post_layernorm\.(weight|bias)", r"visual.trunk.norm.\1"),
    (r"visual_projection\.weight", "visual.head.proj.weight"),
    (r"text_model\.embeddings\.token_embedding\.weight", "text.transformer.embeddings.word_embeddings.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", "text.transformer.embeddings.position_embeddings.weight"),
    (
        r"text_model\.embeddings\.token_type_embedding\.weight",
        "text.transformer.embeddings.token_type_embeddings.weight",
    ),
    (r"text_model\.embeddings\.layer_norm\.(weight|bias)", r"text.transformer.embeddings.LayerNorm.\1"),
    (r"text_projection\.fc1\.weight", "text.proj.0.weight"),
    (r"text_projection\.fc2\.weight", "text.proj.2.weight"),
    (r"logit_scale", "logit_scale"),
)
_VISION = {
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.out_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_TEXT = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "layer_norm1": "attention.output.LayerNorm",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "layer_norm2": "output.LayerNorm",
}
_BLOCK = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def build(checkpoint: Path | None, values: Mapping[str, Any]) -> nn.Module:
    """An image-text network in eval mode, weights from `checkpoint` (random ones when None).

    Raises:
        ModelError: a wrong configuration, an unreadable file, or tensors that do not fit, with the first keys.
    """
    config = config_of(values)
    model = random_network(config, 0)
    if checkpoint is None:
        return model.eval()
    tensors = tensors_of(checkpoint, config)
    name = config.open_clip or "biomedclip"
    load_strictly(model, tensors, checkpoint, name, HINT)
    return model.eval()


def random_network(config: ClipConfig, seed: int) -> nn.Module:
    """The network with weights drawn from `seed` alone; the caller's random numbers are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(config)


def tensors_of(checkpoint: Path, config: ClipConfig) -> dict[str, Tensor]:
    """The tensors of a file under open_clip's names.

    Accepted: open_clip's names, the same behind `model.` or `module.`, an open_clip training checkpoint, and the flat
    Hugging Face names of MedCLIP-SAMv2's file, in which queries, keys and values are apart.

    Raises:
        ModelError: unreadable, or of none of these kinds.
    """
    content = read_tensors(checkpoint)
    if config.open_clip:
        tensors = _plain(content)
    else:
        try:
            tensors = dict(identify(content).tensors)
        except ModelError as error:
            raise ModelError(f"{checkpoint}: {error.message}", error.hint or HINT) from error
        if any(key.startswith("vision_model.") for key in tensors):
            tensors = from_hugging_face(tensors, checkpoint)
    # Counters of positions that older versions of transformers stored.
    return {key: value for key, value in tensors.items() if not key.endswith("position_ids")}


def _plain(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Any open_clip model's tensors, without a training checkpoint's surroundings."""
    inner = content.get("state_dict", content)
    tensors = {key: value for key, value in inner.items() if isinstance(value, Tensor)}
    if tensors and all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def from_hugging_face(tensors: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Flat Hugging Face names → open_clip's; queries, keys and values of the image tower are joined.

    Raises:
        ModelError: a name that belongs to no part of the network, or one of the three without the others.
    """
    renamed: dict[str, Tensor] = {}
    apart: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, value in tensors.items():
        if key.endswith("position_ids"):
            continue
        block = _BLOCK.fullmatch(key)
        if block is None:
            name = _whole(key)
            if name is None:
                unknown.append(key)
            else:
                renamed[name] = value
            continue
        tower, number, part, kind = block.groups()
        if tower == "vision" and part in _QKV:
            apart.setdefault(f"visual.trunk.blocks.{number}.attn.qkv.{kind}", {})[part] = value
        elif tower == "vision" and part in _VISION:
            renamed[f"visual.trunk.blocks.{number}.{_VISION[part]}.{kind}"] = value
        elif tower == "text" and part in _TEXT:
            renamed[f"text.transformer.encoder.layer.{number}.{_TEXT[part]}.{kind}"] = value
        else:
            unknown.append(key)
    lone = [name for name, three in apart.items() if len(three) != len(_QKV)]
    if unknown or lone:
        raise ModelError(f"{source}: no part of BiomedCLIP is called {', '.join((unknown + lone)[:3])}", HINT)
    renamed.update({name: torch.cat([three[part] for part in _QKV]) for name, three in apart.items()})
    # The class token and the positions lose their leading axes on the way there.
    if "visual.trunk.cls_token" in renamed:
        renamed["visual.trunk.cls_token"] = renamed["visual.trunk.cls_token"].reshape(1, 1, -1)
    if "visual.trunk.pos_embed" in renamed:
        table = renamed["visual.trunk.pos_embed"]
        renamed["visual.trunk.pos_embed"] = table.reshape(1, *table.shape[-2:])
    return renamed


def to_hugging_face(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back of `from_hugging_face`: the file that MedCLIP-SAMv2's code reads."""
    vision = {mine: theirs for theirs, mine in _VISION.items()}
    text = {mine: theirs for theirs, mine in _TEXT.items()}
    renamed: dict[str, Tensor] = {}
    for key, value in tensors.items():
        image = re.fullmatch(r"visual\.trunk\.blocks\.(\d+)\.(.+)\.(weight|bias)", key)
        words = re.fullmatch(r"text\.transformer\.encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", key)
        if image and image[2] == "attn.qkv":
            for part, each in zip(_QKV, value.chunk(3), strict=True):
                renamed[f"vision_model.encoder.layers.{image[1]}.{part}.{image[3]}"] = each
        elif image:
            renamed[f"vision_model.encoder.layers.{image[1]}.{vision[image[2]]}.{image[3]}"] = value
        elif words:
            renamed[f"text_model.encoder.layers.{words[1]}.{text[words[2]]}.{words[3]}"] = value
        elif key == "visual.trunk.cls_token":
            renamed["vision_model.embeddings.class_embedding"] = value.reshape(-1)
        elif key == "visual.trunk.pos_embed":
            renamed["vision_model.embeddings.position_embedding.weight"] = value[0]
        else:
            renamed[_back(key)] = value
    return renamed


def _whole(key: str) -> str | None:
    for theirs, mine in _WHOLE:
        found = re.fullmatch(theirs, key)
        if found:
            return found.expand(mine)
    return None


def _back(key: str) -> str:
    for theirs, mine in _WHOLE:
        for kind in ("weight", "bias"):
            if key == mine.replace(r"\1", kind):
                return theirs.replace("\\.", ".").replace("(weight|bias)", kind)
    raise ModelError(f"no Hugging Face name for {key}")
