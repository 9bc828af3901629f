"""The frozen wire contract of the API group (`tests/data/api/contract.yaml`), spelt out as structural schemas."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]
QUANTITY: Schema = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
_COPIED = ("format", "default", "minimum", "maximum", "maxLength", "maxProperties")


class Contract:
    """What was promised; see the head of the file for how it is written."""

    def __init__(self, path: Path) -> None:
        self.document: dict[str, Any] = yaml.safe_load(path.read_text())
        limits = self.document["k8sTypes"]["ResourceRequirements"]["properties"]["limits"]["additionalProperties"]
        self._quantity = {**QUANTITY, "pattern": limits["pattern"]}

    def struct(self, name: str) -> Schema:
        """Return the schema of a struct, additions included, no descriptions."""
        promised = self.document["structs"][name]
        fields = promised | self.document["additions"].get(name, {})
        schema: Schema = {"type": "object", "properties": {field: self.value(said) for field, said in fields.items()}}
        if required := sorted(field for field, said in promised.items() if said.get("required")):
            schema["required"] = required
        return schema

    def value(self, said: dict[str, Any]) -> Schema:
        """Return the schema of one field."""
        extra = {key: said[key] for key in _COPIED if key in said}
        if "enum" in said:
            extra["enum"] = self.document["enums"][said["enum"]]
        if "listType" in said:
            extra["x-kubernetes-list-type"] = said["listType"]
        if "listMapKeys" in said:
            extra["x-kubernetes-list-map-keys"] = said["listMapKeys"]
        match said["type"]:
            case "quantity":
                return self._quantity | extra
            case "array":
                return {"type": "array", "items": self.value(said["items"])} | extra
            case "map":
                return {"type": "object", "additionalProperties": self.value(said["values"])} | extra
            case "object" if "ref" in said:
                return self.struct(said["ref"]) | extra
            case "object" if "k8s" in said:
                schema: Schema = self.document["k8sTypes"][said["k8s"]]
                return schema | extra
            case "object":
                return {"type": "object", "x-kubernetes-preserve-unknown-fields": True} | extra
        return {"type": said["type"]} | extra


@cache
def contract() -> Contract:
    """Return the contract that the tests of this tree hold the code to."""
    return Contract(Path(__file__).parents[2] / "tests" / "data" / "api" / "contract.yaml")
