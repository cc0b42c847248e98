"""The ablation of CC-SAM: its page from numbers that are known, and its command on tiny networks."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import drawn_ellipses
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import ablate_cc_sam as ablation

from medseg_cli import preset
from medseg_cli.models.cc_sam.config import config_of

TINY = {
    **ablation.SMALL,
    "embed_dim": 16,
    "num_heads": 1,
    "prompt_dim": 16,
    "decoder_heads": 2,
    "decoder_mlp_dim": 16,
    "fusion_dim": 16,
    "latent_dim": 8,
}


def row(network: ablation.Network, dice: float) -> dict[str, Any]:
    rowwise = {"hd_rowwise": {"mean": 12.34}}
    scores = {"click": dice, "box": 0.5, "text": 0.25 if network.text else None, "none": 0.125}
    asked = [name for name, value in scores.items() if value is not None]
    return {
        "network": network.name,
        **network.switches,
        "learnt": 1234567,
        "seconds": 61.7,
        "dice": scores,
        "dice_interval": {name: [0.1, 0.75] for name in asked},
        "hd95_frame_px": dict.fromkeys(scores, 4.56),
        "samus_protocol": dict.fromkeys(asked, rowwise),
    }


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "command": "python examples/ablate_cc_sam.py DATA -o OUT",
        "date": "2026-01-01",
        "hardware": "a processor",
        "data": "heads",
        "pictures": {"train": 10, "validation": 2, "test": 3},
        "steps": 5,
        "batch_size": 2,
        "seed": 0,
        "start": "random",
        "cnn": "cnn.safetensors",
    } | changes


def test_the_page_has_a_line_for_each_network_and_says_what_it_is() -> None:
    whole, plain = ablation.NETWORKS[0], ablation.NETWORKS[-1]
    page = ablation.page_of(facts(), [row(whole, 0.625), row(plain, 0.375)])
    first = "| vaf | yes | yes | 1,234,567 | 62 s | 0.625 (0.100 to 0.750) | 0.500 (0.100 to 0.750) |"
    assert first + " 0.250 (0.100 to 0.750) | 0.125 (0.100 to 0.750) |" in page
    assert "| none | no | no | 1,234,567 | 62 s | 0.375 (0.100 to 0.750) | 0.500 (0.100 to 0.750) | – |" in page
    assert "| none | no | no | 4.6 | 4.6 | 12.3 | 12.3 |" in page
    assert "our reconstruction" in page
    assert "From random weights" in page
    assert "From random weights" not in ablation.page_of(facts(start="sam-vit-b"), [row(whole, 0.6)])


def test_the_networks_are_the_ones_that_the_issue_names() -> None:
    both = {network.fusion for network in ablation.NETWORKS if network.text and network.adapters}
    assert both == {"none", "cross", "gate", "vaf"}
    switched = {(network.text, network.adapters) for network in ablation.NETWORKS if network.fusion == "vaf"}
    assert switched == {(True, True), (False, True), (True, False), (False, False)}
    for network in ablation.NETWORKS:
        config_of(ablation.SMALL | network.switches)


def test_rows_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    now = {"steps": 5, "seed": 0}
    ablation._once(tmp_path / "settings.json", now)
    ablation._once(tmp_path / "settings.json", now)
    with pytest.raises(SystemExit, match="steps 5, not 6"):
        ablation._once(tmp_path / "settings.json", {**now, "steps": 6})


def test_a_preset_has_the_switches_and_keeps_the_rest(tmp_path: Path) -> None:
    chosen = argparse.Namespace(preset="cc-sam-vit-b", size="small", key="fetal_head")
    network = next(each for each in ablation.NETWORKS if each.name == "none-neither")
    path = ablation.preset_of(network, chosen, tmp_path, {"fetal_head": {"phrase": "fetal head"}}, tmp_path / "no")
    found = preset.find(str(path))
    config = config_of(found.model)
    assert (config.fusion, config.cnn, config.text, config.adapters) == ("none", "none", False, False)
    assert config.samus.embed_dim == ablation.SMALL["embed_dim"]
    assert found.prompts.kinds == ("point", "box", "mask")
    assert found.prompts.whole_image
    assert [label.name for label in found.labels] == ["fetal head"]
    assert yaml.safe_load(path.read_text())["weights"] is None


@pytest.mark.slow
def test_the_command_measures_each_network_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    drawn_ellipses.save(tmp_path / "heads", 14)
    monkeypatch.setattr(ablation, "SMALL", TINY)
    out = tmp_path / "out"
    words = [str(tmp_path / "heads"), "-o", str(out), "--steps", "2", "--batch-size", "2", "--test", "2"]
    words += ["--cnn-steps", "0", "--cnn-weights", "random", "--only", "gate", "--only", "none-neither"]
    assert ablation.main(words) == 0
    assert capfd.readouterr().out.count("medseg finetune") == 2
    found = json.loads((out / "ablation.json").read_text())
    gate, plain = found["rows"]
    assert found["pictures"]["test"] == 2
    assert (gate["fusion"], gate["cnn"], plain["fusion"], plain["cnn"]) == ("gate", "frozen", "none", "none")
    # The frozen CNN is the difference: it has parameters that do not learn.
    assert gate["learnt"] < gate["parameters"]
    assert plain["learnt"] == plain["parameters"] < gate["learnt"]
    assert set(gate["pictures"]) == {"click", "box", "text", "none"}
    assert set(plain["pictures"]) == {"click", "box", "none"}
    assert set(gate["pictures"].values()) == {2}
    assert plain["dice"]["text"] is None
    for each in (gate, plain):
        assert all(value is None or 0 <= value <= 1 for value in each["dice"].values())
    page = (out / "ablation.md").read_text()
    assert page.count("| gate | yes | yes |") == 2
    assert str(tmp_path) not in json.dumps(
        {key: value for key, value in found.items() if key not in ("rows", "command")}
    )
    # Once more: everything is there already. A row that is gone is measured again, from the network that is there.
    (out / "gate" / "row.json").unlink()
    assert ablation.main(words) == 0
    said = capfd.readouterr().out
    assert "medseg finetune" not in said
    assert json.loads((out / "ablation.json").read_text())["rows"] == [gate, plain]
