"""What an API server decides by its audit policy: the rules of its own code, one by one."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugallu.sdk import PermanentError
from ugallu_audit_detection.audit_policy.document import AuditPolicy, Request, decide, load, read

ROOT = Path(__file__).parents[4]


def policy(*rules: dict[str, Any], **more: Any) -> AuditPolicy:
    return read({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": list(rules), **more}, where="policy")


def resources(*names: str, group: str = "", only: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return [{"group": group, "resources": list(names), **({"resourceNames": list(only)} if only else {})}]


POD = Request("create", "", "pods", "", "shop", "web", "/api/v1/namespaces/shop/pods", "alice", ("dev",))
EXEC = POD._replace(verb="get", subresource="exec")
URL = Request("get", path="/healthz/etcd", user="alice")


@pytest.mark.parametrize(
    ("rule", "request_", "matches"),
    [
        ({}, POD, True),
        ({"users": ["alice"]}, POD, True),
        ({"users": ["bob"]}, POD, False),
        ({"userGroups": ["ops", "dev"]}, POD, True),
        ({"userGroups": ["ops"]}, POD, False),
        ({"verbs": ["get"]}, POD, False),
        ({"namespaces": ["shop"]}, POD, True),
        ({"namespaces": [""]}, POD, False),
        ({"namespaces": [""]}, POD._replace(namespace=""), True),
        ({"namespaces": ["shop"]}, URL, False),
        ({"resources": [{"group": ""}]}, POD, True),
        ({"resources": [{"group": "apps"}]}, POD, False),
        ({"resources": resources("pods")}, POD, True),
        ({"resources": resources("pods")}, EXEC, False),
        ({"resources": resources("pods/exec")}, EXEC, True),
        ({"resources": resources("pods/*")}, EXEC, True),
        ({"resources": resources("pods/*")}, POD, True),
        ({"resources": resources("*/exec")}, EXEC, True),
        ({"resources": resources("*/exec")}, POD, False),
        ({"resources": resources("*")}, EXEC, True),
        ({"resources": resources("pods", only=("web",))}, POD, True),
        ({"resources": resources("pods", only=("db",))}, POD, False),
        ({"nonResourceURLs": ["/healthz*"]}, URL, True),
        ({"nonResourceURLs": ["/healthz"]}, URL, False),
        ({"nonResourceURLs": ["*"]}, URL, True),
        ({"nonResourceURLs": ["*"]}, POD, False),
    ],
)
def test_one_rule(rule: dict[str, Any], request_: Request, matches: bool) -> None:
    """Whether a rule is about a request, as `ruleMatches` of the API server has it."""
    assert (decide(policy({"level": "Request", **rule}), request_).level == "Request") is matches


def test_the_first_that_matches_decides_and_none_is_none() -> None:
    """Order matters; what no rule is about is not audited; stages that either place omits are not written."""
    made = policy(
        {"level": "Metadata", "verbs": ["create"], "omitStages": ["Panic"]},
        {"level": "RequestResponse", "verbs": ["create"]},
        omitStages=["RequestReceived"],
    )
    found = decide(made, POD)
    assert (found.level, found.rule) == ("Metadata", 0)
    assert [stage for stage in ("RequestReceived", "ResponseComplete", "Panic") if found.shows(stage)] == [
        "ResponseComplete"
    ]
    assert not decide(made, EXEC).shows("ResponseComplete")


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ({"kind": "Policy"}, "no apiVersion"),
        ({"apiVersion": "audit.k8s.io/v1", "rules": [{"level": "Metadata"}]}, "no kind"),
        ({}, "no apiVersion and no kind"),
        ({"apiVersion": "v1", "kind": "Policy", "rules": [{"level": "Metadata"}]}, "audit.k8s.io/v1"),
        ({"apiVersion": "audit.k8s.io/v1", "kind": "Policy"}, "without rules"),
        ({"apiVersion": "audit.k8s.io/v1beta1", "kind": "Policy"}, "v1beta1"),
        ({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "Loud"}]}, "rules"),
        ({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{"level": "None", "verb": ["get"]}]}, "verb"),
        (
            {
                "apiVersion": "audit.k8s.io/v1",
                "kind": "Policy",
                "rules": [{"level": "None", "namespaces": ["a"], "nonResourceURLs": ["/x"]}],
            },
            "rules[0]",
        ),
        (["Policy"], "no audit policy"),
    ],
)
def test_what_is_no_policy_is_said(document: Any, word: str) -> None:
    """With the place, in one line."""
    with pytest.raises(PermanentError) as caught:
        read(document, where="policy.yaml")
    assert word in str(caught.value)
    assert str(caught.value).startswith("policy.yaml")


def test_the_recommended_policy_is_one() -> None:
    """The file that the documentation recommends is read without a word."""
    assert len(load(ROOT / "examples" / "audit-policy.yaml").rules) > 5


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["apiVersion", "kind", "rules", "level", "users", "x"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_any_document_is_read_or_refused(document: Any) -> None:
    """Nothing but the one error comes out."""
    with suppress(PermanentError):
        assert read(document, where="x").kind == "Policy"
