"""Boxes that words name: Grounding DINO through transformers, from a local folder. Nothing is downloaded.

The paper of CC-SAM gives such boxes to SAM's prompt encoder; thresholds and rules are our reconstruction.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg_cli.errors import ModelError, UsageError
from medseg_cli.models.local_folder import WEIGHTS, check_vocabulary, kind_of, reading, refuse_lacking

LEAST_SCORE = 0.15
"""Below it a box is no prompt. The published demonstration uses 0.35 on photographs; ultrasound scores are lower."""
AREA = (0.002, 0.9)
"""Share of the picture below and above which a box is no prompt."""
_HINT = (
    "a folder as transformers saves it: config.json, model.safetensors, preprocessor_config.json and tokenizer files"
)


@dataclass(frozen=True)
class Detection:
    """The box with the highest score of one picture and phrase.

    Args:
        box: x0 y0 x1 y1, its edges as shares of the picture's width and height, within 0 and 1.
        score: the detector's own, 0 to 1.
    """

    box: tuple[float, float, float, float]
    score: float

    @property
    def refused(self) -> str | None:
        """Why it is no prompt; None for a good one."""
        x0, y0, x1, y1 = self.box
        area = (x1 - x0) * (y1 - y0)
        # Written so that NaN is refused.
        if not self.score >= LEAST_SCORE:
            return f"score {self.score:.2f} is below {LEAST_SCORE}"
        if not AREA[0] <= area <= AREA[1]:
            return f"it covers {area:.1%} of the picture, and {AREA[0]:.1%} to {AREA[1]:.0%} make a prompt"
        return None

    def pixels(self, width: int, height: int) -> NDArray[np.float64]:
        """(4,) first and last pixel x0 y0 x1 y1 of a picture, both inside."""
        x0, y0, x1, y1 = self.box
        return np.array([x0 * width, y0 * height, x1 * width - 1, y1 * height - 1])


@dataclass(frozen=True, eq=False)
class Detector:
    """A Grounding DINO with its processor.

    Args:
        name: of its folder, for people.
        sha256: of its weights.
        model, processor: of transformers.
    """

    name: str
    sha256: str
    model: Any
    processor: Any

    def find(self, picture: NDArray[np.uint8], phrase: str) -> Detection:
        """The best box for a phrase in a picture (H, W, 3) RGB, whatever its score.

        Raises:
            UsageError: nothing of the phrase is left, or it is too long for the detector.
        """
        tokens = self.processor.tokenizer(caption(phrase))["input_ids"]
        most = self.model.config.max_text_len
        if len(tokens) > most:
            raise UsageError(f"'{phrase[:60]}...' has {len(tokens)} tokens, and the detector takes {most}", "say less")
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        inputs = self.processor(images=pixels, text=caption(phrase), return_tensors="pt")
        with torch.inference_mode():
            found = self.model(**inputs.to(self.model.device))
        scores = found.logits[0].float().sigmoid().amax(-1)
        best = int(scores.argmax())
        return Detection(_corners(found.pred_boxes[0, best].float()), float(scores[best]))


def caption(phrase: str) -> str:
    """A phrase as the detector was taught: lower case, ending in a full stop.

    Raises:
        UsageError: nothing of it is left.
    """
    words = " ".join(phrase.lower().split()).rstrip(" .")
    if not words:
        raise UsageError(f"'{phrase}' names nothing that could be detected", 'say what it is: "fetal head"')
    return f"{words}."


def load_detector(folder: Path, device: torch.device | str = "cpu") -> Detector:
    """A Grounding DINO in eval mode and single precision.

    Raises:
        ModelError: no such folder, another model, or a file in it is missing or damaged.
    """
    from transformers import AutoProcessor, GroundingDinoForObjectDetection

    said = kind_of("detector", folder, _HINT)
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise ModelError(f"the weights in {folder} are in several files", "save them as one: model.safetensors")
    if said != "grounding-dino":
        raise ModelError(f"{folder} holds a model of the kind {said}, not a Grounding DINO", _HINT)
    with reading("detector", folder, _HINT):
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        kind: Any = GroundingDinoForObjectDetection
        model, facts = kind.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    refuse_lacking([*facts["missing_keys"], *(key for key, *_ in facts["mismatched_keys"])], folder, _HINT)
    check_vocabulary(processor.tokenizer, int(model.config.text_config.vocab_size), folder, _HINT)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Detector(folder.resolve().name, digest, model.eval().to(device), processor)


def _corners(box: Tensor) -> tuple[float, float, float, float]:
    """Middle and size as shares (4,) → edges, within the picture."""
    x, y, width, height = box.tolist()
    x0, y0, x1, y1 = (
        min(max(each, 0.0), 1.0) for each in (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    )
    return x0, y0, x1, y1
