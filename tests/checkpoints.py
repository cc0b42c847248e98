"""Checkpoints for tests: the names of every published layout with tiny tensors, and a server that offers them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from torch import Tensor

PROMPT_AND_DECODER = (
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "prompt_encoder.not_a_point_embed.weight",
    "mask_decoder.iou_token.weight",
    "mask_decoder.mask_tokens.weight",
    "mask_decoder.transformer.layers.0.self_attn.q_proj.weight",
)
SAMUS = (
    "image_encoder.cnn_embed.inc.conv.0.weight",
    "image_encoder.post_pos_embed.downs.0.maxpool_conv.1.weight",
    "image_encoder.input_Adapter.D_fc1.weight",
    "image_encoder.pos_embed",
    "image_encoder.neck.0.weight",
    *PROMPT_AND_DECODER,
)
BIOMEDCLIP = (
    "visual.trunk.cls_token",
    "visual.trunk.blocks.0.attn.qkv.weight",
    "visual.head.proj.weight",
    "text.transformer.embeddings.word_embeddings.weight",
    "text.proj.2.weight",
    "logit_scale",
)
RESNET = ("conv1.weight", "bn1.running_mean", "layer3.5.conv1.weight", "layer4.2.conv2.weight", "fc.weight")


def tensors(names: Iterable[str]) -> dict[str, Tensor]:
    """A different small tensor for each name."""
    return {name: torch.full((2,), float(index)) for index, name in enumerate(names)}


def sam(width: int = 768, seed: int = 0) -> dict[str, Tensor]:
    """SAM's layout, told by the width of its position table; another `seed` is another training."""
    generator = torch.Generator().manual_seed(seed)
    made = tensors(("image_encoder.neck.0.weight", *PROMPT_AND_DECODER))
    return made | {"image_encoder.pos_embed": torch.rand(1, 2, 2, width, generator=generator)}


def sam3d() -> dict[str, Any]:
    """The official 3DSAM-adapter file: parts, a NumPy number, optimiser states."""
    import numpy as np

    weight = torch.nn.Parameter(torch.ones(2))
    optimiser = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimiser.step()
    encoder = tensors(
        (
            "pos_embed",
            "depth_embed",
            "slice_embed.weight",
            "blocks.0.attn_mask",
            "blocks.0.attn.rel_pos_d",
            "blocks.0.adapter.linear1.weight",
            "neck_3d.0.0.weight",
        )
    )
    return {
        "epoch": 7,
        "best_val_loss": np.float64(0.25),
        "encoder_dict": encoder,
        "feature_dict": [tensors(["transformer.layers.0.global_query"]) for _ in range(4)],
        "decoder_dict": tensors(["mlahead.head2.0.weight", "cls.0.weight"]),
        "encoder_opt": optimiser.state_dict(),
    }


@dataclass
class Site:
    """What the test server offers and how it behaves.

    Attributes:
        body: the file.
        etag, modified: validators sent with it; "" sends none.
        cut: close the connection after that many bytes of a response, once for each element.
        ranges: whether it understands Range.
        status: answer this instead, once for each element.
        redirect: send the client there.
        content_type: of the answer.
        requests: headers of every request, as they came.
    """

    body: bytes
    etag: str = '"v1"'
    modified: str = ""
    cut: list[int] = field(default_factory=list)
    ranges: bool = True
    status: list[int] = field(default_factory=list)
    redirect: str = ""
    content_type: str = "application/octet-stream"
    requests: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """The site on this machine's loopback, until the block ends."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append({key.lower(): value for key, value in self.headers.items()})
            if site.redirect or site.status:
                self.send_response(302 if site.redirect else site.status.pop(0))
                if site.redirect:
                    self.send_header("Location", site.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._send_file()

        def _send_file(self) -> None:
            start, size = self._start(), len(site.body)
            if start >= size > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            for name, value in (("ETag", site.etag), ("Last-Modified", site.modified)):
                if value:
                    self.send_header(name, value)
            self.send_header("Content-Type", site.content_type)
            self.send_header("Content-Length", str(size - start))
            self.end_headers()
            end = start + site.cut.pop(0) if site.cut else size
            self.wfile.write(site.body[start:end])
            self.close_connection = True

        def _start(self) -> int:
            """First byte wanted: 0 unless a range is asked of the version that we have."""
            wanted, condition = self.headers.get("Range", ""), self.headers.get("If-Range", "")
            if not site.ranges or not wanted or condition not in (site.etag, site.modified):
                return 0
            return int(wanted.removeprefix("bytes=").partition("-")[0])

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}/weights.pth"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
