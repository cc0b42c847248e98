"""What each part of CC-SAM (our reconstruction) is good for: `python examples/ablate_cc_sam.py DATA -o OUT`.

Eight networks that differ in one or two switches (fusion none, cross, gate, vaf; text; adapters) are trained by
`medseg finetune` on the same pictures from the same seed for the same number of steps, and `medseg evaluate` asks each
of them about the same held-back pictures with a click, a box, a text and nothing. The frozen CNN is that of the
embedded SAM-UNet after a short training on the same pictures, done first.

These are small networks with random weights. At full size, on a machine for it:
`--size full --weights sam-vit-b --cnn-steps 0 --cnn-weights resnet50.pth`.

What is finished stays in OUT: the same command goes on after an interruption and trains nothing twice.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from ablation_page import PROMPTS, figure, page_of
from bench_finetune import ROOT, hardware, say, split_of


@dataclass(frozen=True)
class Network:
    """One row: switches of `models/cc_sam/config.py`.

    Args:
        name: of its folder.
        fusion: how the transformer's global blocks listen to the CNN; "none" has no CNN either.
        text: whether there is a token for texts.
        adapters: whether there are feature adapters.
    """

    name: str
    fusion: str
    text: bool = True
    adapters: bool = True

    @property
    def switches(self) -> dict[str, Any]:
        """As a preset's `model` has them."""
        cnn = "none" if self.fusion == "none" else "frozen"
        return {"fusion": self.fusion, "cnn": cnn, "text": self.text, "adapters": self.adapters}


NETWORKS = (
    Network("vaf", "vaf"),
    Network("gate", "gate"),
    Network("cross", "cross"),
    Network("none", "none"),
    Network("vaf-no-text", "vaf", text=False),
    Network("vaf-no-adapters", "vaf", adapters=False),
    Network("vaf-neither", "vaf", text=False, adapters=False),
    Network("none-neither", "none", text=False, adapters=False),
)
SMALL: dict[str, Any] = {
    "embed_dim": 48,
    "depth": 4,
    "num_heads": 1,
    "mlp_ratio": 2,
    "global_attn_indexes": [0, 1, 2, 3],
    "prompt_dim": 48,
    "mask_in_chans": 8,
    "decoder_heads": 4,
    "decoder_mlp_dim": 128,
    "iou_dim": 32,
    "cnn_block": "basic",
    "cnn_layers": [3, 4, 6, 3],
    "cnn_stem": 12,
    "fusion_dim": 48,
    "latent_dim": 24,
}
"""A transformer of 48 channels in four global blocks of one head: attention over 1024 tokens is what a step costs. The
CNN is a thin ResNet-34, as the embedded SAM-UNet has it."""
CNN_PRESET = "chest-xray-lungs"
"""The embedded SAM-UNet, whose CNN is taken."""
LEARN = re.compile(r"([\d,]+) of ([\d,]+) parameters learn")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and measure what is missing, then write OUT/ablation.md and OUT/ablation.json."""
    chosen = _parser().parse_args(arguments)
    out: Path = chosen.output
    out.mkdir(parents=True, exist_ok=True)
    _once(out / "settings.json", settings(chosen))
    bank, table = texts(chosen, out)
    split = held(chosen, out)
    cnn = cnn_of(chosen, out)
    rows = []
    for network in NETWORKS:
        if chosen.only and network.name not in chosen.only:
            continue
        row = out / network.name / "row.json"
        if not row.is_file():
            _write(row, measure(network, chosen, out, bank, table, cnn))
        rows.append(json.loads(row.read_text(encoding="utf-8")))
        say(f"{network.name}: " + ", ".join(f"{name} {figure(rows[-1]['dice'][name])}" for name in PROMPTS))
    facts = {
        "command": shlex.join(
            ["python", "examples/ablate_cc_sam.py", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "data": chosen.data.resolve().name,
        "pictures": {part: len(cases) for part, cases in split.items()},
        **{name: value for name, value in settings(chosen).items() if name != "dataset"},
        "text_model": chosen.text_model,
    }
    _write(out / "ablation.json", {**facts, "rows": rows})
    (out / "ablation.md").write_text(page_of(facts, rows), encoding="utf-8")
    say(f"{out / 'ablation.md'} and ablation.json")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="a dataset of pictures with one object each")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder of runs and tables")
    parser.add_argument("--steps", type=int, default=300, help="training steps of each network (usual: 300)")
    parser.add_argument("--batch-size", type=int, default=2, help="pictures in each step (usual: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, samples and split (usual: 0)")
    parser.add_argument("--test", type=int, help="measure the first N held-back pictures alone")
    parser.add_argument("--class", dest="key", default="fetal_head", metavar="KEY", help="class of the shipped texts")
    parser.add_argument("--text-model", default="text-demo", help="embeds the texts once (usual: text-demo)")
    parser.add_argument(
        "--cnn-steps", type=int, default=300, help="training steps of the CNN, in a SAM-UNet (usual: 300; 0 = none)"
    )
    parser.add_argument(
        "--cnn-weights",
        default=str(ROOT / "presets" / "weights" / f"{CNN_PRESET}.safetensors"),
        help=f"of the frozen CNN with --cnn-steps 0 (usual: {CNN_PRESET}, which has seen lungs in X-rays)",
    )
    parser.add_argument("--preset", default="cc-sam-vit-b", help="what is changed (usual: cc-sam-vit-b)")
    parser.add_argument("--size", choices=("small", "full"), default="small", help="full: as the preset has it")
    parser.add_argument("--weights", help="weights to begin with; usual: random ones, of which everything learns")
    parser.add_argument("--device", default="cpu", help="as of medseg (usual: cpu)")
    parser.add_argument("--only", action="append", choices=[each.name for each in NETWORKS], help="these (repeatable)")
    return parser


def settings(chosen: argparse.Namespace) -> dict[str, Any]:
    """What all rows have in common; rows of other settings are no rows of this table."""
    cnn = Path(chosen.cnn_weights)
    named = cnn.name if cnn.is_file() else chosen.cnn_weights
    return {
        "dataset": str(chosen.data.resolve()),
        "steps": chosen.steps,
        "batch_size": chosen.batch_size,
        "seed": chosen.seed,
        "test": chosen.test,
        "class": chosen.key,
        "preset": chosen.preset,
        "model": SMALL if chosen.size == "small" else {},
        "cnn": f"{CNN_PRESET}, trained for {chosen.cnn_steps} steps" if chosen.cnn_steps else named,
        "start": chosen.weights or "random",
    }


def _once(path: Path, now: dict[str, Any]) -> None:
    """Write the settings, or hold them against those of what is there."""
    if not path.is_file():
        _write(path, now)
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    other = [f"{key} {before.get(key)!r}, not {now[key]!r}" for key in now if before.get(key) != now[key]]
    if other:
        raise SystemExit(f"{path.parent} has rows of other settings ({'; '.join(other)}): choose another -o")


def texts(chosen: argparse.Namespace, out: Path) -> tuple[dict[str, Any], Path]:
    """The class's texts as `options.texts` has them, and the table of their embeddings, made once."""
    table = out / "texts.safetensors"
    if not table.is_file():
        words = ["weights", "embed-text", "ultrasound", "--class", chosen.key, "--model", chosen.text_model]
        medseg([*words, "-o", str(table)])
    from medseg_cli.models.cc_sam.table import load_table

    return {key: each.model_dump(mode="json") for key, each in load_table(table).bank.items()}, table


def held(chosen: argparse.Namespace, out: Path) -> dict[str, list[str]]:
    """The split that all networks share: the dataset's own of seed 0, as the embedded presets have it."""
    split = split_of(chosen.data)
    split["test"] = split["test"][: chosen.test]
    _write(out / "split.json", split)
    return split


def cnn_of(chosen: argparse.Namespace, out: Path) -> str:
    """The weights of the frozen CNN; where it is to be trained, that is done once, in a SAM-UNet without prompts."""
    if not chosen.cnn_steps:
        return str(chosen.cnn_weights)
    run, done = out / "cnn" / "run", out / "cnn" / "trained.json"
    if not done.is_file():
        shutil.rmtree(run, ignore_errors=True)
        run.parent.mkdir(exist_ok=True)
        words = ["finetune", str(chosen.data), "-o", str(run), "--preset", CNN_PRESET, "--seed", str(chosen.seed)]
        words += ["--splits", str(out / "split.json"), "--steps", str(chosen.cnn_steps), "--workers", "0"]
        words += ["--batch-size", str(chosen.batch_size), "--validate-every", str(chosen.cnn_steps)]
        medseg([*words, "--tracker", "none", "--device", chosen.device])
        _write(done, {"command": shlex.join(["medseg", *words])})
    return str(run / "weights.safetensors")


def measure(
    network: Network, chosen: argparse.Namespace, out: Path, bank: dict[str, Any], table: Path, cnn: str
) -> dict[str, Any]:
    """One row: train, then ask about the held-back pictures in every way."""
    folder = out / network.name
    folder.mkdir(exist_ok=True)
    run, done = folder / "run", folder / "trained.json"
    splits = ["--splits", str(out / "split.json")]
    if not done.is_file():
        shutil.rmtree(run, ignore_errors=True)
        words = ["finetune", str(chosen.data), "-o", str(run), *splits, "--seed", str(chosen.seed)]
        words += ["--preset", str(preset_of(network, chosen, folder, bank, table)), "--steps", str(chosen.steps)]
        words += ["--start", "preset", "--weights", chosen.weights] if chosen.weights else ["--start", "scratch"]
        words += ["--batch-size", str(chosen.batch_size), "--validate-every", str(chosen.steps)]
        words += ["--cnn-weights", cnn] if network.fusion != "none" else []
        words += ["--objects", "together", "--workers", "0", "--tracker", "none", "--device", chosen.device]
        started = time.monotonic()
        found = LEARN.search(said := medseg(words))
        if found is None:
            raise SystemExit(f"medseg finetune did not say how many parameters learn: {said[-500:]}")
        learnt, every = (int(number.replace(",", "")) for number in found.groups())
        record = {"seconds": round(time.monotonic() - started, 1), "learnt": learnt, "parameters": every}
        _write(done, record | {"command": shlex.join(["medseg", *words])})
    row: dict[str, Any] = {"network": network.name, **network.switches, **json.loads(done.read_text(encoding="utf-8"))}
    reports = {}
    for name, kind in PROMPTS.items():
        report = folder / f"{name}.json"
        if kind == "text" and not network.text:
            continue
        if not report.is_file():
            words = ["evaluate", str(chosen.data), "--preset", str(run), *splits, "--prompt", kind, "-o", str(report)]
            words += ["--text", bank[chosen.key]["phrase"]] if kind == "text" else []
            words += ["--protocol", "samus", "--objects", "together", "--seed", str(chosen.seed), "--worst", "0"]
            medseg([*words, "--device", chosen.device, "--quiet"])
        reports[name] = json.loads(report.read_text(encoding="utf-8"))
    return row | {
        "pictures": {name: report["objects"] for name, report in reports.items()},
        "dice": {name: _of(reports, name, "Dice", "mean") for name in PROMPTS},
        "dice_interval": {
            name: [_of(reports, name, "Dice", "low"), _of(reports, name, "Dice", "high")] for name in reports
        },
        "hd95_frame_px": {name: _of(reports, name, "frame_HD95_px", "mean") for name in PROMPTS},
        "samus_protocol": {name: report["samus_protocol"]["labels"]["all"] for name, report in reports.items()},
    }


def _of(reports: dict[str, Any], name: str, metric: str, which: str) -> float | None:
    """A number of a report; None where nobody was asked that way, or the metric is defined nowhere."""
    found = reports[name]["statistics"]["all"].get(metric) if name in reports else None
    return None if found is None else found[which]


def preset_of(network: Network, chosen: argparse.Namespace, folder: Path, bank: dict[str, Any], table: Path) -> Path:
    """A preset with the switches of a network, written into its folder."""
    from medseg_cli import preset
    from medseg_cli.models.cc_sam.table import load_table, rows_of

    facts = preset.find(chosen.preset).model_dump(mode="json")
    if chosen.size == "small":
        facts["model"] = dict(SMALL)
    facts["model"] |= network.switches
    facts["labels"] = [{"value": 1, "name": bank[chosen.key]["phrase"], "color": "#58d68d"}]
    facts |= {"name": f"cc-sam-{network.name}", "weights": None, "accuracy": []}
    facts["title"] = f"CC-SAM (our reconstruction), {network.name}, of an ablation"
    if network.text:
        loaded = load_table(table)
        facts["model"] |= {"text_dim": loaded.width, "text_rows": rows_of(loaded)}
        facts["options"] |= {"texts": bank, "text_table": str(table.resolve())}
    else:
        facts["prompts"]["kinds"] = [kind for kind in facts["prompts"]["kinds"] if kind != "text"]
    path = folder / "preset.yaml"
    path.write_text(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


class _Heard(io.TextIOBase):
    """A stream that remembers what passes through it."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.text = stream, ""

    def write(self, text: str) -> int:
        self.text += text
        return int(self.stream.write(text))

    def flush(self) -> None:
        self.stream.flush()


def medseg(words: Sequence[str]) -> str:
    """Run the command line in this process, which then imports everything once; what it said on stderr."""
    from medseg_cli import app

    say(shlex.join(["medseg", *words]))
    heard, before = _Heard(sys.stderr), sys.argv
    sys.argv = ["medseg", *words]
    try:
        with contextlib.redirect_stderr(heard):
            code = app.main(list(words))
    finally:
        sys.argv = before
    if code:
        raise SystemExit(f"{shlex.join(['medseg', *words])} ended with {code}")
    return heard.text


def _write(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: what is there counts as finished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    raise SystemExit(main())
