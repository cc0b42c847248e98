"""Tells checkpoints apart by the names of their tensors, and brings each to one flat set of official names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medseg_cli.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_WRAPPERS = ("model", "state_dict", "model_state_dict")
_PREFIXES = ("module.", "model.")
_SAM_WIDTHS = {768: "sam-vit-b", 1024: "sam-vit-l", 1280: "sam-vit-h"}

_SAM_PARTS = (
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "prompt_encoder.not_a_point_embed.weight",
    "mask_decoder.iou_token.weight",
    "mask_decoder.mask_tokens.weight",
    "mask_decoder.transformer.layers.0.self_attn.q_proj.weight",
)
_SAM3D_PARTS = (
    "encoder.pos_embed",
    "encoder.depth_embed",
    "encoder.slice_embed.weight",
    "encoder.blocks.0.attn.rel_pos_d",
    "encoder.blocks.0.adapter.linear1.weight",
    "encoder.neck_3d.0.0.weight",
    "decoder.mlahead.head2.0.weight",
    "decoder.cls.0.weight",
)
_SAMUS_PARTS = (
    "image_encoder.cnn_embed.inc.conv.0.weight",
    "image_encoder.post_pos_embed.downs.0.maxpool_conv.1.weight",
    "image_encoder.input_Adapter.D_fc1.weight",
    *_SAM_PARTS,
)
_CC_SAM_ALONE = ("text_prompt.", "image_encoder.tail_scale")
"""What a CC-SAM has and a SAMUS has not, where it has SAMUS's CNN branch."""
_RESNET_PARTS = ("conv1.weight", "bn1.running_mean", "layer3.5.conv1.weight", "layer4.2.conv2.weight", "fc.weight")

# The tensors that mark each layout, special ones before the general ones that they extend.
_MARKS: dict[str, tuple[str, ...]] = {
    "sam-unet": (
        "image_encoder.sam_img_encoder.pos_embed",
        "prompt_encoder.sam_prompt_encoder.not_a_point_embed.weight",
        "mask_decoder.sam_mask_decoder.output_upscaling.0.weight",
        "mask_decoder.med_token.weight",
        "mask_decoder.hf_mlp.layers.0.weight",
        "resnet.stage0.0.weight",
        "adapters_in.3.reshaper.0.weight",
        "adapters_bridge.0.0.weight",
        "embedding_encoder.0.weight",
    ),
    "3dsam-adapter": (*_SAM3D_PARTS, "feature.3.transformer.layers.0.global_query"),
    "3dsam-adapter-auto": _SAM3D_PARTS,
    "autosamus": (*_SAMUS_PARTS, "prompt_generator.object_token", "feature_adapter.0.weight"),
    "samus": _SAMUS_PARTS,
    # Our own layout: with SAMUS's trained branch in it, it is told from SAMUS below.
    "cc-sam": ("image_encoder.post_pos_embed.downs.0.maxpool_conv.1.weight", *_SAM_PARTS),
    "sam": ("image_encoder.pos_embed", "image_encoder.neck.0.weight", *_SAM_PARTS),
    "biomedclip": (
        "visual.trunk.cls_token",
        "visual.trunk.blocks.0.attn.qkv.weight",
        "visual.head.proj.weight",
        "text.transformer.embeddings.word_embeddings.weight",
        "text.proj.2.weight",
        "logit_scale",
    ),
    "biomedclip-hf": (
        "vision_model.embeddings.class_embedding",
        "visual_projection.weight",
        "text_model.embeddings.token_embedding.weight",
        "text_projection.fc2.weight",
        "logit_scale",
    ),
    "resnet50": (*_RESNET_PARTS, "layer1.0.conv3.weight"),
    "resnet34": _RESNET_PARTS,
}


@dataclass(frozen=True)
class Checkpoint:
    """A recognised checkpoint.

    Attributes:
        layout: its name, as in the catalogue.
        tensors: official names -> tensors; of the 3DSAM-adapter `encoder.`, `feature.0.`..`feature.3.`, `decoder.`.
        dropped: what the file held besides, which is not kept (optimiser states, constant shift masks, counters).
    """

    layout: str
    tensors: dict[str, Tensor]
    dropped: tuple[str, ...]


def identify(content: Any) -> Checkpoint:
    """Recognise what `torch.load` or safetensors returned.

    Raises:
        ModelError: no known layout; names the closest one and what it lacks.
    """
    if not isinstance(content, Mapping):
        raise ModelError(f"the file holds a {type(content).__name__}, not named tensors")
    tensors, dropped = _flatten(content)
    if not tensors:
        raise ModelError(f"the file holds no named tensors, only {', '.join(map(str, content)) or 'nothing'}")
    for layout, marks in _MARKS.items():
        if all(mark in tensors for mark in marks):
            return Checkpoint(_exact(layout, tensors), tensors, tuple(dropped))
    raise ModelError(_nearest(tensors))


def _exact(layout: str, tensors: dict[str, Tensor]) -> str:
    """The layout's variant, where marks alone do not tell: SAM's size is the width of its position table."""
    if layout == "samus" and any(key.startswith(_CC_SAM_ALONE) for key in tensors):
        return "cc-sam"
    if layout != "sam":
        return layout
    width = tensors["image_encoder.pos_embed"].shape[-1]
    return _SAM_WIDTHS.get(width, f"sam-width-{width}")


def _flatten(content: Mapping[Any, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """Named tensors of a checkpoint whatever they are wrapped in, and the names of what else it holds."""
    if "encoder_dict" in content and "decoder_dict" in content:
        return _flatten_sam3d(content)
    dropped: list[str] = []
    wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
    while wrapper is not None:
        dropped += [str(key) for key in content if key != wrapper]
        content = content[wrapper]
        wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
    tensors = {str(key): value for key, value in content.items() if _is_tensor(value)}
    dropped += [str(key) for key in content if str(key) not in tensors]
    for prefix in _PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors, dropped


def _flatten_sam3d(content: Mapping[Any, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The official 3DSAM-adapter file: one dictionary per part, a list of four for the prompt encoders.

    The shift masks (`blocks.N.attn_mask`, 67 MB each) are constants that the network computes; they are not kept.
    """
    parts = {"encoder": content["encoder_dict"], "decoder": content["decoder_dict"]}
    for index, feature in enumerate(content.get("feature_dict") or ()):
        parts[f"feature.{index}"] = feature
    used = ("encoder_dict", "decoder_dict", "feature_dict")
    dropped = [str(key) for key in content if key not in used]
    tensors: dict[str, Tensor] = {}
    for part, state in parts.items():
        if not isinstance(state, Mapping):
            raise ModelError(f"part '{part}' of the 3DSAM-adapter checkpoint is a {type(state).__name__}, not tensors")
        for key, value in state.items():
            name = f"{part}.{str(key).removeprefix('module.')}"
            if name.endswith(".attn_mask") or not _is_tensor(value):
                dropped.append(name)
            else:
                tensors[name] = value
    return tensors, dropped


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _nearest(tensors: dict[str, Tensor]) -> str:
    """One line on the layout that fits best, or on the names found when none does."""
    shares = {name: sum(mark in tensors for mark in marks) / len(marks) for name, marks in _MARKS.items()}
    best = max(shares, key=lambda name: shares[name])
    if shares[best] < 0.3:
        shown = ", ".join(list(tensors)[:3])
        return f"none of the layouts {', '.join(_MARKS)}: {len(tensors)} tensors such as {shown}"
    lacking = [mark for mark in _MARKS[best] if mark not in tensors]
    return f"closest to the layout '{best}', but lacks {', '.join(lacking[:4])}"
