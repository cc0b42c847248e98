"""`medseg presets ...` through the real command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_preset import VALID, write
from typer.testing import CliRunner

from medseg_cli import preset as presets
from medseg_cli.commands.presets import app


def test_list_names_every_preset_with_its_licence(run_medseg: Callable[..., Any]):
    done = run_medseg("presets", "list")
    assert done.rc == 0
    for name in presets.names():
        assert name in done.stdout
        assert presets.find(name).licence in done.stdout


def test_list_as_json(run_medseg: Callable[..., Any]):
    rows = json.loads(run_medseg("presets", "list", "--json").stdout)
    assert [row["name"] for row in rows] == list(presets.names())
    assert {"title", "pipeline", "modality", "labels", "licence", "weights", "path"} <= rows[0].keys()


def test_list_shows_a_broken_user_preset_and_goes_on(run_medseg: Callable[..., Any], medseg_home: Path):
    (medseg_home / "presets").mkdir(parents=True)
    write(medseg_home / "presets", VALID | {"dims": 7})
    done = run_medseg("presets", "list")
    assert done.rc == 0
    assert "invalid" in done.stdout
    assert "sam3d-kits" in done.stdout


def test_show_prints_yaml_that_is_a_preset(run_medseg: Callable[..., Any], tmp_path: Path):
    done = run_medseg("presets", "show", "sam3d-kits")
    assert done.rc == 0
    assert yaml.safe_load(done.stdout)["preprocessing"]["intensity"]["low"] == -54
    path = tmp_path / "copy.yaml"
    path.write_text(done.stdout, "utf-8")
    assert presets.load(path).model_dump() == presets.find("sam3d-kits").model_dump()


def test_show_of_an_unknown_name_ends_with_4(run_medseg: Callable[..., Any]):
    done = run_medseg("presets", "show", "sam3d-kit")
    assert done.rc == 4
    assert "did you mean 'sam3d-kits'" in done.stderr
    assert done.stdout == ""


def test_check_tells_valid_from_invalid(run_medseg: Callable[..., Any], tmp_path: Path):
    good = run_medseg("presets", "check", "sam3d-kits")
    assert good.rc == 0
    assert "valid, weights missing" in good.stdout
    bad = run_medseg("presets", "check", write(tmp_path, VALID | {"colour": 1}))
    assert bad.rc == 4
    assert "unknown key 'colour'" in bad.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pipeline": "4dsam"}, "unknown pipeline '4dsam'"),
        ({"prompts": {"kinds": ["point", "text"]}}, "prompts text: not of pipeline '3dsam-adapter'"),
        ({"dims": 2}, "dims 2: not of pipeline"),
        ({"options": {"protocoll": "follow"}}, "options.protocoll: extra inputs are not permitted"),
        ({"options": {"protocol": "best"}}, "options.protocol: input should be 'follow' or 'official'"),
    ],
)
def test_check_asks_the_pipeline_too(tmp_path: Path, change: dict[str, Any], said: str):
    done = CliRunner().invoke(app, ["check", str(write(tmp_path, VALID | change))])
    assert done.exit_code == 4
    assert said in done.stdout


def test_schema_and_path(run_medseg: Callable[..., Any], medseg_home: Path):
    assert json.loads(run_medseg("presets", "schema").stdout)["title"] == "Preset"
    assert run_medseg("presets", "path").stdout.strip() == str(medseg_home / "presets")
    assert run_medseg("presets", "path", "sam3d-kits").stdout.strip().endswith("presets/sam3d-kits.yaml")
