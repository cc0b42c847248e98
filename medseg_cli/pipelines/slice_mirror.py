"""A 2-D network asked twice: about each picture and about its mirror image, with the mean of both probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg_cli.pipelines.slice_ensemble import SliceEnsemble, mean_logits

_MIRRORED = "mirrored."


class SliceMirror(nn.Module):
    """A `by_slice.SliceNetwork` made of one whose pictures fill its square: padding would change sides.

    Args:
        network: a `by_slice.SliceNetwork`.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.size: int = network.size
        self.mask_size: int = network.mask_size
        self.has_latents = bool(getattr(network, "has_latents", False))

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """The embeddings of B images and of their mirror images."""
        return _halves(self.network.encode(_both(images)))

    def encodings(self, images: Tensor, noises: Iterable[Sequence[torch.Generator]]) -> Iterator[Mapping[str, Tensor]]:
        """`encode` with each noise, of a network with latents; an image and its mirror image draw their own."""
        yield from map(_halves, self.network.encodings(_both(images), ([*noise, *noise] for noise in noises)))

    def decode(
        self,
        embedding: dict[str, Tensor],
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        masks: Tensor | None = None,
        **others: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """As of the network; see `mean_logits`. The score is the mean of both."""
        turned = {
            name.removeprefix(_MIRRORED): value for name, value in embedding.items() if name.startswith(_MIRRORED)
        }
        plain = {name: value for name, value in embedding.items() if not name.startswith(_MIRRORED)}
        first, score = self.network.decode(plain, boxes=boxes, points=points, masks=masks, **others)
        second, other = self.network.decode(
            turned,
            boxes=None if boxes is None else self._boxes(boxes),
            points=None if points is None else self._points(points),
            masks=None if masks is None else masks.flip(-1),
            **others,
        )
        logits = mean_logits(torch.stack([first.float(), second.float().flip(-1)]))
        return logits, None if score is None or other is None else (score.float() + other.float()) / 2

    def _points(self, points: Tensor) -> Tensor:
        """Clicks (N, P, 2); centres of pixels are whole numbers."""
        x, y = points.unbind(-1)
        return torch.stack([self.size - 1 - x, y], dim=-1)

    def _boxes(self, boxes: Tensor) -> Tensor:
        """Half-open boxes (N, 4)."""
        x0, y0, x1, y1 = boxes.unbind(-1)
        return torch.stack([self.size - x1, y0, self.size - x0, y1], dim=-1)


def _both(images: Tensor) -> Tensor:
    """(B, 3, S, S) → (2B, 3, S, S), mirror images behind the others."""
    return torch.cat([images, images.flip(-1)])


def _halves(embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Embeddings of `_both` → those of the images, and those of their mirror images under names of their own."""
    found: dict[str, Tensor] = {}
    for name, value in embeddings.items():
        found[name], found[f"{_MIRRORED}{name}"] = value.chunk(2)
    return found


def first_network(model: Any) -> Any:
    """The network itself behind mirroring and an ensemble, of which it is the first."""
    member = model.members[0] if isinstance(model, SliceEnsemble) else model
    return member.network if isinstance(member, SliceMirror) else member
