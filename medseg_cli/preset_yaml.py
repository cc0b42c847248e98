"""Reads one YAML mapping from a file that may come from anywhere: plain data, bounded in size, nothing ambiguous."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from medseg_cli.errors import ModelError

LARGEST = 256 * 1024  # bytes; the longest preset that makes sense is a few kB
DEEPEST = 16


class StrictLoader(yaml.SafeLoader):
    """SafeLoader without aliases (a few of them can unfold into gigabytes), repeated keys, or deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not allowed", problem_mark=self.peek_event().start_mark
            )
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(
                problem=f"nested deeper than {DEEPEST} levels", problem_mark=self.peek_event().start_mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ModelError: missing, unreadable, larger than 256 KiB, not UTF-8, not YAML, not a mapping, or with tags, aliases
            or repeated keys; with the line where it can be said.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise ModelError(f"no preset file {path}", "`medseg presets list` shows what there is") from error
    except OSError as error:
        raise ModelError(f"cannot read preset {path}: {error.strerror}") from error
    if len(raw) > LARGEST:
        raise ModelError(f"{path} is larger than {LARGEST // 1024} KiB: no preset", "give a preset's YAML file")
    try:
        data = yaml.load(raw.decode("utf-8"), Loader=StrictLoader)
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not UTF-8 text", "give a preset's YAML file") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ModelError(f"{path}: {where}{error.problem or error.context}", "a preset is plain YAML data") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ModelError(f"{path}: {' '.join(str(error).split())}", "a preset is plain YAML data") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds no YAML mapping", "the format is described in docs/presets.md")
    return data
