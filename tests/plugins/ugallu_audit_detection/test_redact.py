"""Nothing secret reaches a signal, whatever body it travels in."""

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.audit import AuditObject
from ugallu_audit_detection.redact import LAST_APPLIED, redacted, scrubbed

SECRET = "hunter2-hunter2"
CORE_SECRET = AuditObject(resource="secrets")
POD = AuditObject(resource="pods")
JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"

BODIES: list[tuple[str, AuditObject | None, Any]] = [
    ("data of a Secret", CORE_SECRET, {"kind": "Secret", "data": {"a": SECRET}}),
    ("stringData of a Secret", CORE_SECRET, {"kind": "Secret", "stringData": {"a": SECRET}}),
    ("a merge patch of a Secret", CORE_SECRET, {"data": {"a": SECRET}}),
    ("a JSON Patch of a Secret", CORE_SECRET, [{"op": "add", "path": "/data/a", "value": SECRET}]),
    ("a JSON Patch of the whole Secret", CORE_SECRET, [{"op": "add", "path": "", "value": {"data": {"a": SECRET}}}]),
    ("a list of Secrets", CORE_SECRET, {"kind": "SecretList", "items": [{"data": {"a": SECRET}}]}),
    ("a List that holds a Secret", POD, {"kind": "List", "items": [{"kind": "Secret", "data": {"a": SECRET}}]}),
    ("a Secret where nobody expects one", None, {"x": [{"kind": "Secret", "DATA": {"a": SECRET}}]}),
    ("data that is no map", CORE_SECRET, {"kind": "Secret", "data": SECRET}),
    ("data of a ConfigMap", AuditObject(resource="configmaps"), {"kind": "ConfigMap", "data": {"a": SECRET}}),
    ("the last applied copy", POD, {"metadata": {"annotations": {LAST_APPLIED: f'{{"data":"{SECRET}"}}'}}}),
    (
        "the last applied copy in a JSON Patch",
        POD,
        [
            {
                "op": "add",
                "path": "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration",
                "value": SECRET,
            }
        ],
    ),
    ("a token review", AuditObject(resource="tokenreviews"), {"kind": "TokenReview", "spec": {"token": SECRET}}),
    ("an issued token", AuditObject(resource="serviceaccounts"), {"kind": "TokenRequest", "status": {"token": SECRET}}),
    ("a variable", POD, {"spec": {"containers": [{"env": [{"name": "DB_PASSWORD", "value": SECRET}]}]}}),
    ("a header of a probe", POD, {"httpHeaders": [{"name": "Authorization", "value": SECRET}]}),
    (
        "a variable's value in a JSON Patch",
        POD,
        [{"op": "replace", "path": "/spec/containers/0/env/0/value", "value": SECRET}],
    ),
    ("a field of a custom resource", AuditObject(resource="dbs"), {"spec": {"adminPassword": SECRET}}),
    ("a list of tokens", AuditObject(resource="dbs"), {"spec": {"tokens": [SECRET]}}),
    ("a kubeconfig", AuditObject(resource="clusters"), {"spec": {"kubeconfig": SECRET}}),
    ("a flag of a program", POD, {"args": [f"--password={SECRET}"]}),
    ("an argument behind a flag", POD, {"args": ["--password", SECRET]}),
    ("a user and a password", POD, {"command": ["curl", "-u", f"admin:{SECRET}"]}),
    ("a shell's command", POD, {"command": ["sh", "-c", f"mysql --password {SECRET} -h db"]}),
    ("a header of a program", POD, {"command": ["curl", "-H", f"Authorization: Bearer {SECRET}"]}),
    ("a variable of any name", POD, {"env": [{"name": "MODE", "value": SECRET}]}),
    ("a variable with a URL", POD, {"env": [{"name": "A_URL", "value": f"mongodb://u:{SECRET}@h/"}]}),
    ("variables as a map", AuditObject(resource="dbs"), {"spec": {"env": {"MODE": SECRET}}}),
    ("variables as texts", AuditObject(resource="dbs"), {"spec": {"env": [f"MODE={SECRET}"]}}),
    (
        "a variable added by a JSON Patch",
        POD,
        [{"op": "add", "path": "/env/-", "value": {"name": "A", "value": SECRET}}],
    ),
    ("variables set by a JSON Patch", POD, [{"op": "add", "path": "/env", "value": [{"name": "A", "value": SECRET}]}]),
    ("a variable of a map in a JSON Patch", POD, [{"op": "add", "path": "/spec/env/MODE", "value": SECRET}]),
    ("a header of any name", POD, {"httpHeaders": [{"name": "X-Key", "value": SECRET}]}),
    ("the address of a webhook", None, {"webhooks": [{"clientConfig": {"url": f"https://u:{SECRET}@x/"}}]}),
    ("a private key", None, {"spec": {"x": f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END"}}),
    (
        "a Secret in an annotation of a tool",
        None,
        {"metadata": {"annotations": {"kapp.k14s.io/original": f'{{"kind":"Secret","data":{{"a":"{SECRET}"}}}}'}}},
    ),
    ("data in an annotation", None, {"metadata": {"annotations": {"x/last": f'{{"data":{{"a":"{SECRET}"}}}}'}}}),
    (
        "data in an annotation, indented",
        None,
        {"metadata": {"annotations": {"x/last": f'\n {{"data":{{"a":"{SECRET}"}}}}'}}},
    ),
    ("a cut object in an annotation", None, {"metadata": {"annotations": {"x/last": f'{{"data":{{"a":"{SECRET}'}}}),
    ("any annotation of a Secret", CORE_SECRET, {"kind": "Secret", "metadata": {"annotations": {"x": SECRET}}}),
    ("a table of Secrets", CORE_SECRET, {"kind": "Table", "rows": [{"cells": [SECRET]}]}),
    ("a refusal that quotes a Secret", CORE_SECRET, {"kind": "Status", "message": f"data: {SECRET} is invalid"}),
    ("causes of such a refusal", CORE_SECRET, {"kind": "Status", "details": {"causes": [{"message": SECRET}]}}),
    ("user data of a machine", None, {"cloudInitNoCloud": {"userData": f"#cloud-config\npassword: {SECRET}"}}),
    ("a key of a volume", POD, {"csi": {"volumeAttributes": {"accountKey": SECRET}}}),
    ("a JSON Patch in odd letters", CORE_SECRET, [{"op": "add", "path": "/data", "Value": {"a": SECRET}}]),
]


@pytest.mark.parametrize(("ref", "body"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES])
def test_a_secret_does_not_survive(ref: AuditObject | None, body: Any) -> None:
    """The value is gone, its length may stay."""
    before = msgspec.json.encode(body)
    assert SECRET not in msgspec.json.encode(redacted(body, ref)).decode()
    assert msgspec.json.encode(body) == before, "the body itself must not change"


def test_what_rules_need_stays() -> None:
    """Names, types, images, verbs and flags are not secrets."""
    body = {
        "kind": "Pod",
        "metadata": {"name": "token-cache", "namespace": "secrets"},
        "spec": {
            "automountServiceAccountToken": True,
            "serviceAccountName": "web",
            "imagePullSecrets": [{"name": "registry"}],
            "volumes": [{"name": "v", "secret": {"secretName": "db"}}],
            "containers": [{"name": "c", "image": "r/i", "args": ["--mode", "fast", "--token-ttl", "1h"]}],
        },
    }
    assert redacted(body, POD) == body
    shown = {"env": [{"name": "MODE", "valueFrom": {"secretKeyRef": {"name": "db", "key": "mode"}}}]}
    assert redacted(shown, POD) == shown
    role = {"kind": "ClusterRole", "rules": [{"verbs": ["get"], "resources": ["secrets", "serviceaccounts/token"]}]}
    assert redacted(role, AuditObject(resource="clusterroles")) == role


def test_key_names_of_a_secret_stay() -> None:
    """Rules and readers see which keys there are, and how long their values."""
    assert redacted({"kind": "Secret", "data": {"tls.key": "abcd"}}, CORE_SECRET) == {
        "kind": "Secret",
        "data": {"tls.key": "[redacted 4]"},
    }


@pytest.mark.parametrize(
    "text",
    [
        f"/api/v1/x?token={SECRET}&a=b",
        f"/x?access_token%3D{SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"mysql --password={SECRET} -h db",
        f"/x?API_KEY={SECRET}",
        f"postgres://shop:{SECRET}@db:5432/shop",
        f"MYSQL_PWD={SECRET} mysql",
        f"mysql --password {SECRET}",
        f'invalid value: {{"password": "{SECRET}"}}',
    ],
)
def test_free_text_is_scrubbed(text: str) -> None:
    """A token in a URI or an argument is told by its shape."""
    assert SECRET not in scrubbed(text)


@pytest.mark.parametrize("end", range(24, len(JWT)))
def test_a_cut_token_is_scrubbed_too(end: int) -> None:
    """A value that was cut in the middle of a token shows nothing of it."""
    assert scrubbed(f"x {JWT[:end]}") == "x [redacted]"


def test_ordinary_text_stays() -> None:
    """Resources called secrets or tokens are no secrets."""
    for text in (
        "/api/v1/secrets?limit=500",
        "/api/v1/namespaces/a/serviceaccounts/web/token",
        "token-controller/v1",
        "https://issuer.example#alice@example.com",
    ):
        assert scrubbed(text) == text


def test_scrubbing_takes_no_longer_than_the_text() -> None:
    """No text makes the expression go back over and over."""
    began = time.perf_counter()
    for text in (
        "token" * 20_000,
        "eyJ" * 30_000,
        "bearer " * 15_000,
        "://" * 30_000,
        "://" + "a" * 100_000,
        "password." * 10_000,
        "a" * 100_000 + "secret",
        "-" * 100_000,
        "--password " * 10_000,
        "-----BEGIN PRIVATE" * 10_000,
        'key":' * 20_000,
    ):
        scrubbed(text)
    assert time.perf_counter() - began < 2.0


def test_a_deep_body_ends() -> None:
    """Nesting is cut, not followed."""
    body: Any = SECRET
    for _ in range(500):
        body = {"data": [body]}
    assert SECRET not in msgspec.json.encode(redacted(body, CORE_SECRET)).decode()


trees = st.recursive(
    st.just(SECRET) | st.integers() | st.none() | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "stringData", "kind", "metadata", "items", "a"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b"]), trees, min_size=1))
def test_below_data_of_a_secret_nothing_survives(tree: Any) -> None:
    """Whatever shape `data` has."""
    assert SECRET not in msgspec.json.encode(redacted({"kind": "Secret", "data": tree}, CORE_SECRET)).decode()
