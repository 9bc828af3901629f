"""No secret of an audited body leaves the process: planted in every place that holds one, looked for in everything there is.

What is planted is looked for as it is, in base64, and as JSON and URLs would write it; in standard output and error, in every file of
the state directory, and in everything that the database, the journal and the archive hold.
"""

import base64
import itertools
import json
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.journeys.test_command_line import ugallu

COUNT = itertools.count()
SIGNALS = {
    "request": "${requestObject:$}",
    "response": "${responseObject:$}",
    "uri": "${requestURI}",
    "agent": "${userAgent}",
    "message": "${responseStatus.reason}",
}
RULE: dict[str, Any] = {
    "apiVersion": "security.ugallu.io/v1alpha1",
    "kind": "SigmaRule",
    "metadata": {"name": "everything"},
    "spec": {
        "match": {"userGlob": ["*"]},
        "rateLimit": {"burst": 10_000, "sustainedPerSec": 10_000},
        "emit": {"securityEventType": "KubernetesAPICall", "severity": "low", "class": "Audit", "signals": SIGNALS},
    },
}


def canary() -> str:
    """A value that nothing else contains, in the shape of a password."""
    return f"cAnAry{next(COUNT):05d}x{'9f' * 5}"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def jwt(text: str) -> str:
    return f"eyJhbGciOiJSUzI1NiJ9.{b64(json.dumps({'sub': text}))}.c2lnbmF0dXJl".replace("=", "")


def meta(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "namespace": "shop", **more}


def planted() -> Iterator[tuple[str, list[str], dict[str, Any]]]:
    """Yield (what, the canaries, an audit event that holds them)."""

    def event(what: str, secrets: list[str], resource: str, **fields: Any) -> tuple[str, list[str], dict[str, Any]]:
        ref = {"resource": resource, "namespace": "shop", "name": what.replace(" ", "-"), "apiVersion": "v1"}
        ref |= fields.pop("ref", {})
        number = next(COUNT)
        return (
            what,
            secrets,
            {
                "kind": "Event",
                "apiVersion": "audit.k8s.io/v1",
                "level": "RequestResponse",
                "auditID": f"00000000-0000-0000-0000-{number:012d}",
                "stage": "ResponseComplete",
                "requestURI": f"/api/v1/namespaces/shop/{resource}/{number}",
                "verb": "create",
                "user": {"username": "alice", "groups": ["system:authenticated"]},
                "objectRef": ref,
                "responseStatus": {"code": 201},
                "requestReceivedTimestamp": f"2026-03-01T10:{number // 60 % 60:02d}:{number % 60:02d}.000000Z",
                "stageTimestamp": f"2026-03-01T10:{number // 60 % 60:02d}:{number % 60:02d}.000000Z",
                **fields,
            },
        )

    one, two, three = canary(), canary(), canary()
    applied = json.dumps({"kind": "Secret", "data": {"p": b64(three)}})
    secret = {
        "kind": "Secret",
        "apiVersion": "v1",
        "metadata": meta("s", annotations={"kubectl.kubernetes.io/last-applied-configuration": applied}),
        "data": {"password": b64(one)},
        "stringData": {"plain": two},
    }
    yield event("a secret", [one, two, three], "secrets", requestObject=secret, responseObject=secret)
    one, two = canary(), canary()
    config = {"kind": "ConfigMap", "metadata": meta("c"), "data": {"k": one}, "binaryData": {"b": b64(two)}}
    yield event("a config map", [one, two], "configmaps", requestObject=config, responseObject=config)
    one, two = canary(), canary()
    listed = {
        "kind": "SecretList",
        "items": [{"metadata": meta("s"), "data": {"k": b64(one)}, "stringData": {"x": two}}],
    }
    yield event("a list", [one, two], "secrets", verb="list", responseObject=listed)
    one = canary()
    patch = [{"op": "replace", "path": "/data/password", "value": b64(one)}]
    yield event("a json patch", [one], "secrets", verb="patch", requestObject=patch)
    one = canary()
    yield event(
        "a whole patch",
        [one],
        "secrets",
        verb="patch",
        requestObject=[{"op": "add", "path": "", "value": {"data": {"x": b64(one)}}}],
    )
    one = canary()
    yield event("a merge patch", [one], "secrets", verb="patch", requestObject={"stringData": {"x": one}})
    one = canary()
    review = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {"token": jwt(one)}}
    yield event(
        "a token review",
        [one, jwt(one)],
        "tokenreviews",
        ref={"apiGroup": "authentication.k8s.io"},
        requestObject=review,
    )
    one = canary()
    issued = {"kind": "TokenRequest", "status": {"token": jwt(one)}, "spec": {"audiences": ["x"]}}
    yield event(
        "an issued token", [one, jwt(one)], "serviceaccounts", ref={"subresource": "token"}, responseObject=issued
    )
    one, two, three = canary(), canary(), canary()
    containers = [
        {
            "name": "c",
            "image": "app:1",
            "env": [{"name": "DB_PASSWORD", "value": one}, {"name": "AUTHORIZATION", "value": f"Bearer {two}"}],
            "args": [f"--password={three}"],
        }
    ]
    pod = {"kind": "Pod", "metadata": meta("p"), "spec": {"containers": containers}}
    yield event("a pod", [one, two, three], "pods", requestObject=pod, responseObject=pod)
    secrets = [canary() for _ in range(6)]
    env = [
        {"name": name, "value": value} for name, value in zip(("MYSQL_PWD", "PGPASS", "MODE"), secrets, strict=False)
    ]
    original = json.dumps({"kind": "Secret", "data": {"p": b64(secrets[5])}})
    pod = {
        "kind": "Pod",
        "metadata": meta("p", annotations={"kapp.k14s.io/original": original}),
        "spec": {
            "containers": [
                {
                    "name": "c",
                    "env": env,
                    "args": ["--password", secrets[3]],
                    "command": ["sh", "-c", f"x --token {secrets[4]}"],
                }
            ]
        },
    }
    yield event("what no name tells", secrets, "pods", requestObject=pod, responseObject=pod)
    one, two = canary(), canary()
    widget = {"kind": "Widget", "spec": {"apiKey": one, "nested": [{"credentials": {"secretAccessKey": two}}]}}
    yield event("a custom resource", [one, two], "widgets", ref={"apiGroup": "shop.example.com"}, requestObject=widget)
    one, two = canary(), canary()
    hook = {
        "kind": "ValidatingWebhookConfiguration",
        "webhooks": [{"clientConfig": {"url": f"https://user:{one}@hooks.example.com/?token={two}"}}],
    }
    yield event(
        "a url",
        [one, two],
        "validatingwebhookconfigurations",
        ref={"apiGroup": "admissionregistration.k8s.io", "namespace": ""},
        requestObject=hook,
    )
    one, two = canary(), canary()
    uri = f"/api/v1/namespaces/shop/pods/p/exec?command=curl&command=-H&command=Authorization%3A+Bearer%20{one}&token={two}"
    yield event("a request uri", [one, two], "pods", ref={"subresource": "exec"}, requestURI=uri)
    one = canary()
    yield event("a user agent", [one], "pods", verb="get", userAgent=f"curl/8 token={one}")


PLANTED = list(planted())


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """All that a run over these events said and left behind."""
    folder = tmp_path_factory.mktemp("canary")
    log, rule, state = folder / "audit.log", folder / "rule.yaml", folder / "state"
    log.write_text("".join(json.dumps(event) + "\n" for _, _, event in PLANTED))
    rule.write_text(yaml.safe_dump(RULE))
    done = ugallu("replay", log, "--rules", rule, "--state", state, "--json", UGALLU_LOG_LEVEL="debug")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == len(PLANTED)
    said = [done.stdout.encode(), done.stderr.encode()]
    shown = ugallu("events", "-o", "json", "--state", state)
    said.append(shown.stdout.encode())
    assert '"request"' in shown.stdout
    said += list(stored(state))
    return b"\n".join(said)


def stored(state: Path) -> Iterator[bytes]:
    """Yield the bytes of every file, and of every value in a database; what is compressed also as it was."""
    for path in sorted(path for path in state.rglob("*") if path.is_file()):
        content = path.read_bytes()
        yield content
        if path.suffix == ".db":
            with closing(sqlite3.connect(path)) as database:
                tables = [name for (name,) in database.execute("select name from sqlite_master where type='table'")]
                for table in tables:
                    for row in database.execute(f'select * from "{table}"'):
                        for value in row:
                            yield value if isinstance(value, bytes) else str(value).encode()
        for wbits in (15, 31, -15):
            try:
                yield zlib.decompressobj(wbits).decompress(content)
            except zlib.error:
                continue


@pytest.mark.parametrize(
    ("what", "secrets"),
    [(what, secrets) for what, secrets, _ in PLANTED],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_canary_is_found(everything: bytes, what: str, secrets: list[str]) -> None:
    """Neither the value nor any of the forms in which it may travel."""
    assert [secret for secret in secrets if found(secret, everything)] == [], what


def found(secret: str, place: bytes) -> bool:
    """Whether a value is there: as it is, in base64, or within something longer in base64."""
    # Within something longer it begins at any of three places; what stands at its ends is mixed with the rest.
    forms = {secret.encode(), *(base64.b64encode(b"x" * shift + secret.encode())[4:20] for shift in (0, 1, 2))}
    return any(form in place for form in forms)


def test_the_search_finds_what_is_there(everything: bytes) -> None:
    """Names and shapes stay, so the run did look at these bodies; a search that finds nothing at all would prove nothing."""
    planted_there = json.dumps([event for _, _, event in PLANTED]).encode()
    assert all(found(secret, planted_there) for _, secrets, _ in PLANTED for secret in secrets)
    for kept in (b"DB_PASSWORD", b"everything", b"shop.example.com", b"[redacted"):
        assert kept in everything
