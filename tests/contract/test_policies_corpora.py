"""Objects of real clusters, as recordings have them, raise no error in any expression of a policy."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ugallu.api.meta import Kind
from ugallu.api.policies import policies
from ugallu.cluster.embedded.policies import Policies, Request, User

DATA = Path(__file__).parents[1] / "data" / "audit"
EXAMPLE = Path(__file__).parents[2] / "examples" / "audit.jsonl.gz"
KINDS = {
    "Pod": Kind("Pod", "pods", group="", version="v1", namespaced=True),
    "NetworkPolicy": Kind("NetworkPolicy", "networkpolicies", group="networking.k8s.io", version="v1", namespaced=True),
}
"""What the policies look at that is not ours."""


def recorded() -> Iterator[dict[str, Any]]:
    """Yield each object of these kinds in requests and answers of all recordings."""
    for path in (*DATA.glob("*/*.jsonl"), *DATA.glob("*/*.jsonl.gz"), EXAMPLE):
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for line in content.splitlines():
            yield from _inside(json.loads(line))


def _inside(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if value.get("kind") in KINDS and isinstance(value.get("metadata"), dict):
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _inside(one)


def test_no_recorded_object_raises_in_a_policy() -> None:
    """Created, changed and deleted, itself and its status: a verdict every time (`judge` raises where there is none)."""
    judged, unlike = Policies(policies()), {json.dumps(one, sort_keys=True): one for one in recorded()}
    for one in unlike.values():
        kind = KINDS[one["kind"]]
        for part in ("", "status"):
            for verb, new, old in (("create", one, None), ("update", one, one), ("delete", None, one)):
                name, namespace = one["metadata"].get("name", ""), one["metadata"].get("namespace", "")
                judged.judge(Request(verb, kind, part, User("alice"), namespace, name, new, old), lambda *_: None)
    assert {one["kind"] for one in unlike.values()} >= {"Pod"}
    assert len(unlike) > 100
