"""Cases of 6: SigmaRules."""

from typing import Any, Final

from ugallu.api.sigma import SigmaRule
from ugallu.testing.contracts.policies.case import Case, Document, changed

_RULE: Final[Document] = {
    "spec": {
        "enabled": True,
        "match": {"verb": ["create"], "objectRef": {"resource": ["pods"], "subresource": ["exec"]}},
        "emit": {"securityEventType": "ExecIntoPod", "severity": "high"},
    }
}
_STARS: Final = "*a" * 8


def _rule(says: str, path: str, value: object, refused: str = "", **more: Any) -> Case:  # noqa: ANN401 - of Case
    new = changed(_RULE, f"spec.{path}", value)
    return Case(policy="sigma-rule-spec", says=says, kind=SigmaRule.kind_info, new=new, refused=refused, **more)


def _large() -> list[Case]:
    """The largest that are accepted, and one more: no budget of an engine is spent before the policy says no."""

    def leaf(globs: int, glob: str, entries: int, patterns: int) -> Document:
        entry = {"jsonPath": "$.spec.containers[*].image", "patterns": [glob] * patterns}
        return {
            "verb": ["create"],
            "objectRef": {"resource": ["pods"], "nameGlob": [glob] * globs},
            "requestObjectGlob": [entry] * entries,
            "sameElement": [{"path": "$.spec.containers[*]", "all": [{**entry, "jsonPath": "$.image"}]}],
        }

    full = {"anyOf": [leaf(64, "*name*-" + "n" * 120, 4, 16)] * 64}
    paths = {"anyOf": [{"fieldAbsent": ["$." + "p" * 61] * 32}] * 64}

    def excepted(number: int) -> Document:
        expected = {"owner": "o", "reason": "r", "match": {"userGlob": ["*a*"]}}
        exceptions = [{"name": f"e{n}", **expected} for n in range(number)]
        more = {"match": {"anyOf": [{"verb": ["get"]}] * 64}, "suppress": {"exceptions": exceptions}}
        return {"spec": {**_RULE["spec"], **more}}

    def same(*lists: int) -> Document:
        entries = [{"jsonPath": "$.a", "patterns": ["a"] * patterns} for patterns in lists]
        return {"verb": ["get"], "sameElement": [{"path": "$.b", "all": entries}]}

    long = {"anyOf": [{"nameGlob": ["*" + "n" * 511] * 16}] * 64}
    few = "at most 4096 patterns of a kind"
    return [
        _rule("4096 globs, 4096 patterns and 1024 of elements", "match", full),
        _rule("a glob more", "match", {**full, "nameGlob": ["*"]}, few),
        _rule("a pattern more", "match", {**full, "objectGlob": [{"jsonPath": "$.a", "patterns": ["a"]}]}, few),
        _rule("64 leaves of 64 globs in each of two lists", "match",
              {"anyOf": [{"nameGlob": ["*a*"] * 64, "userGlob": ["*b*"] * 64}] * 64}, few),
        _rule("as many characters as globs may have", "match", {"anyOf": long["anyOf"][:63]}),
        _rule("more characters than globs may have", "match", long, few),
        _rule("2048 paths", "match", paths),
        _rule("a path more", "match", {**paths, "changed": ["$.a"]}, "at most 2048 paths of a kind"),
        _rule("4096 patterns of elements", "match", same(4000, 96)),
        _rule("4097 patterns of elements", "match", same(4000, 97), few),
        _rule("2048 paths of elements", "match", same(*[1] * 2047)),
        _rule("2049 paths of elements", "match", same(*[1] * 2048), "at most 2048 paths of a kind"),
        Case(policy="sigma-rule-spec", says="256 leaves", kind=SigmaRule.kind_info, new=excepted(191)),
        Case(policy="sigma-rule-spec", says="257 leaves", kind=SigmaRule.kind_info, new=excepted(192),
             refused="at most 256 leaves"),
    ]  # fmt: skip


def _globs() -> list[Case]:
    cases = []
    places: tuple[tuple[str, Any], ...] = (
        ("objectRef.nameGlob", lambda g: {"objectRef": {"nameGlob": [g]}}),
        ("nameGlob", lambda g: {"nameGlob": [g]}),
        ("namespaceGlob", lambda g: {"namespaceGlob": [g]}),
        ("userGlob", lambda g: {"userGlob": [g]}),
        ("user.usernameGlob", lambda g: {"user": {"usernameGlob": [g]}}),
        ("requestURIGlob", lambda g: {"requestURIGlob": [g]}),
        ("requestObjectGlob.patterns", lambda g: {"requestObjectGlob": [{"jsonPath": "$.a", "patterns": [g]}]}),
        ("objectGlob.patterns", lambda g: {"objectGlob": [{"jsonPath": "$.a", "patterns": [g]}]}),
        ("previous patterns", lambda g: {"previous": [{"jsonPath": "$.a", "patterns": [g]}]}),
        ("sameElement patterns",
         lambda g: {"sameElement": [{"path": "$.a", "all": [{"jsonPath": "$.b", "patterns": [g]}]}]}),
    )  # fmt: skip
    for place, leaf in places:
        cases += [
            _rule(f"{place} with eight stars", "match", leaf(_STARS)),
            _rule(f"{place} with nine stars", "match", leaf(_STARS + "*"), "8 stars"),
        ]
    glob = places[0][1]
    return [
        *cases,
        _rule("an empty glob", "match", glob(""), "a glob is not empty"),
        _rule("a glob of 512 characters", "match", glob("a" * 512)),
        _rule("a glob of 513 characters", "match", glob("a" * 513), "512 characters"),
        _rule("a bad glob in anyOf", "match", {"anyOf": [glob("a"), glob("")]}, "a glob is not empty"),
        _rule("a bad glob in not", "match.not", glob(""), "a glob is not empty"),
        _rule("a bad glob in noneOf", "match.noneOf", [glob("")], "a glob is not empty"),
        _rule("a bad glob in an exception", "suppress",
              {"exceptions": [{"name": "e", "owner": "o", "reason": "r", "match": glob("")}]}, "a glob is not empty"),
        _rule("a good exception", "suppress",
              {"exceptions": [{"name": "e", "owner": "o", "reason": "r", "match": glob("a*")}]}),
    ]  # fmt: skip


def _paths() -> list[Case]:
    def leaf(path: str) -> Document:
        return {"requestObjectGlob": [{"jsonPath": path, "patterns": ["a"]}]}

    good = ("$", "$.a", "$.a.b[0].c[*].*", "$['a.b/c'].d", "$pod.hostNetwork", "$ctr[*].image", "$." + "a" * 254)
    bad = ("", "a", ".a", "$.", "$..a", "$[-1]", "$[1:2]", "$[?(@.a)]", "$a", "$.a[", "$['a]", "$." + "a" * 255)
    return [
        *(_rule(f"path {number} that is one", "match", leaf(path)) for number, path in enumerate(good)),
        *(_rule(f"path {number} that is none", "match", leaf(path), "a jsonPath") for number, path in enumerate(bad)),
        _rule("a bad path in anyOf", "match", {"anyOf": [leaf("a")]}, "a jsonPath"),
        _rule("a bad path in not", "match.not", leaf("a"), "a jsonPath"),
        _rule("a bad path that must be absent", "match.fieldAbsent", ["a"], "a jsonPath"),
        _rule("a good path that must be absent", "match.fieldAbsent", ["$.a"]),
        _rule("a bad path that must change", "match.changed", ["a"], "a jsonPath"),
        _rule("a good path that must change", "match.changed", ["$.a"]),
        _rule("a bad path in what stood there", "match.previous", [{"jsonPath": "a", "patterns": ["a"]}], "a jsonPath"),
        _rule("a bad path in the Pod", "match.targetPod", [{"jsonPath": "a", "patterns": ["a"]}], "a jsonPath"),
        _rule("a bad path of an array", "match.sameElement", [{"path": "a", "all": []}], "a jsonPath"),
        _rule("a bad path in an element", "match.sameElement",
              [{"path": "$.a", "all": [{"jsonPath": "a", "patterns": ["a"]}]}], "a jsonPath"),
    ]  # fmt: skip


def _rules() -> list[Case]:
    legacy = changed(_RULE, "spec.emit.securityEventType", "NoSuchType")
    held = changed(legacy, "metadata.finalizers", ["ugallu.io/hold"])
    stored: dict[str, Any] = {"policy": "sigma-rule-spec", "kind": SigmaRule.kind_info}
    nothing = "spec.match must ask something"
    leaf = {"verb": ["get"]}
    return [
        _rule("a rule", "description", "d"),
        _rule("a type of no catalogue", "emit.securityEventType", "NoSuchType", "not in the curated catalog"),
        _rule("no type", "emit.securityEventType", "", "not in the curated catalog"),
        _rule("two types", "emit.securityEventType", "ExecIntoPod HostPathMount", "not in the curated catalog"),
        _rule("Forensic", "emit.class", "Forensic", "must not be Forensic"),
        _rule("another class", "emit.class", "Audit"),
        _rule("32 signals", "emit.signals", {f"s{n}": "v" * 1024 for n in range(32)}),
        _rule("33 signals", "emit.signals", {f"s{n}": "v" for n in range(33)}, "spec.emit.signals"),
        _rule("a signal of 1025 characters", "emit.signals", {"s": "v" * 1025}, "spec.emit.signals"),
        _rule("64 leaves", "match.anyOf", [leaf] * 64),
        _rule("65 leaves", "match.anyOf", [leaf] * 65, "spec.match.anyOf"),
        _rule("65 leaves in noneOf", "match.noneOf", [leaf] * 65, "spec.match.anyOf"),
        _rule("256 names", "match.objectRef.resource", [f"r{n}" for n in range(256)]),
        _rule("257 names", "match.objectRef.resource", [f"r{n}" for n in range(257)], "at most 256 entries"),
        _rule("257 names in a leaf", "match.not", {"user": {"groups": [f"g{n}" for n in range(257)]}},
              "at most 256 entries"),
        _rule("257 entries in a leaf", "match.subresource", [f"s{n}" for n in range(257)], "at most 256 entries"),
        _rule("257 patterns", "match.requestObjectGlob", [{"jsonPath": "$.a", "patterns": ["a"] * 257}],
              "at most 256 entries"),
        _rule("257 tags", "tags", ["t"] * 257, "at most 256 entries"),
        _rule("an empty match", "match", {}, nothing),
        _rule("empty lists", "match", {"verb": [], "objectRef": {}}, nothing),
        _rule("only what must not be", "match", {"not": leaf}, nothing),
        _rule("only what unknown counts as", "match", {"whenUnknown": "holds"}, nothing),
        _rule("anyOf alone", "match", {"anyOf": [leaf]}),
        _rule("an empty leaf in anyOf", "match", {"anyOf": [leaf, {}]}, nothing),
        _rule("an empty anyOf", "match", {"anyOf": []}, nothing),
        Case(says="an upstream rule", new={"spec": {**_RULE["spec"], "match": {}, "sigma": "title: x"}}, **stored),
        _rule("rates", "rateLimit", {"burst": 10_000, "sustainedPerSec": 1}),
        _rule("no burst", "rateLimit", {"burst": 0}, "spec.rateLimit"),
        _rule("too large a burst", "rateLimit", {"burst": 10_001}, "spec.rateLimit"),
        _rule("no rate", "rateLimit", {"sustainedPerSec": 0}, "spec.rateLimit"),
        _rule("too high a rate", "rateLimit", {"sustainedPerSec": 10_001}, "spec.rateLimit"),
        Case(says="what was stored before is labelled", old=legacy, new=changed(legacy, "metadata.labels.a", "b"),
             **stored),
        Case(says="what was stored before is let go", old=held, new=legacy, **stored),
        Case(says="what was stored before is mended", old=legacy, new=_RULE, **stored),
        Case(says="what was stored before is changed", old=legacy, new=changed(legacy, "spec.enabled", False),
             refused="not in the curated catalog", **stored),
        Case(says="its status is written", old=legacy, new=changed(legacy, "status.matchCount", 1),
             subresource="status", **stored),
    ]  # fmt: skip


RULE_CASES: Final[tuple[Case, ...]] = (*_rules(), *_globs(), *_paths(), *_large())
