"""The JSON Schema of the configuration file: `python -m pgambassador.config.schema > config/schema.json`."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

from pgambassador.config.providers import INSTALLED, OURS
from pgambassador.config.structs import Config


def schema() -> dict[str, Any]:
    found = msgspec.json.schema(Config, schema_hook=lambda kind: {"type": "string"})
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "pgambassador", **found}
    _loosen(found)
    _open(found["$defs"]["InstalledCredentials"])
    return found


def _open(other: dict[str, Any]) -> None:
    """A provider of another package has any name but ours, and options of its own."""
    own = other["properties"]
    for name in ("name", "options"):
        del own[name]
    own["provider"] = {"type": "string", "not": {"enum": sorted(OURS)}}
    other["required"] = ["provider"]
    del other["additionalProperties"]


def _loosen(node: Any) -> None:
    """Numbers with a unit are text as well, and what may be left out may be `off`."""
    if isinstance(node, list):
        for each in node:
            _loosen(each)
    elif isinstance(node, dict):
        if node.get("type") in ("number", "integer") and "examples" in node:
            node["type"] = [node["type"], "string"]
        if "discriminator" in node:
            node["discriminator"]["mapping"].pop(INSTALLED, None)
        for each in node.values():
            _loosen(each)
        if node.get("type") == "array" and node.get("default") == ["127.0.0.1:5432"]:
            node["type"] = ["array", "string"]


def text() -> str:
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
