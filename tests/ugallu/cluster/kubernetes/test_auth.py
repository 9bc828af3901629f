"""Who we are to a server: rotated, expired, printed by a plug-in, and never in a message."""

import base64
import json
import os
import stat
import sys
import textwrap
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import yaml

from tests.rig.keys import Authority
from tests.ugallu.cluster.kubernetes.conftest import Server, reply, status
from ugallu.cluster.kubernetes.auth import Access, from_kubeconfig, in_cluster
from ugallu.cluster.kubernetes.client import KubernetesCluster
from ugallu.cluster.kubernetes.identity import FRESH, Kept, Material
from ugallu.cluster.kubernetes.plugin import PAUSE, printed
from ugallu.cluster.port import ForbiddenError, UnavailableError
from ugallu.errors import PermanentError, UgalluError
from ugallu.testing.clock import ManualClock
from ugallu.testing.contracts.cluster import SlimRule

FOUND = reply(200, {"metadata": {"name": "x", "resourceVersion": "1"}})
REFUSED = status(401, "Unauthorized", "Unauthorized")


def kubeconfig(path: Path, user: Mapping[str, Any], cluster: Mapping[str, Any] | None = None, **more: Any) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster or {"server": "https://10.0.0.1:6443"}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        **more,
    }
    path.write_text(yaml.safe_dump(document))
    return path


def plugin(path: Path, *answers: Mapping[str, Any]) -> dict[str, Any]:
    """Return an exec entry whose n-th run prints the n-th answer, and the last one for ever; it notes what it is told."""
    path.with_suffix(".json").write_text(json.dumps(answers))
    path.write_text(
        textwrap.dedent(f"""\
        #!{sys.executable}
        import json, os
        here = {str(path)!r}
        with open(here + ".runs", "a") as runs:
            runs.write(json.dumps([os.environ.get("KUBERNETES_EXEC_INFO"), os.environ.get("GIVEN")]) + "\\n")
        count = len(open(here + ".runs").readlines())
        answers = json.load(open({str(path.with_suffix(".json"))!r}))
        answer = answers[min(count, len(answers)) - 1]
        print(json.dumps({{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": answer}}))
        """)
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"apiVersion": "client.authentication.k8s.io/v1", "command": f"./{path.name}", "interactiveMode": "Never"}


def runs(path: Path) -> list[Any]:
    return [json.loads(line) for line in Path(f"{path}.runs").read_text().splitlines()]


def tokens(server: Server) -> list[str]:
    return [request.headers.get("authorization", "").removeprefix("Bearer ") for request in server.requests]


async def test_a_pods_token_is_read_again_as_kubelet_rotates_it(server: Server, tmp_path: Path) -> None:
    """A new token is used within a minute, the old one until then; while the file is away what was read counts."""
    (tmp_path / "token").write_text("one\n")
    (tmp_path / "namespace").write_text("ugallu-system\n")
    clock = ManualClock()
    access = in_cluster(server.url, tmp_path, clock=clock)
    assert access.namespace == "ugallu-system"
    cluster = await KubernetesCluster.open(access)
    server.plan(FOUND)
    await cluster.get(SlimRule, "x")
    (tmp_path / "token").write_text("two")
    await cluster.get(SlimRule, "x")
    await clock.advance(FRESH)
    await cluster.get(SlimRule, "x")
    (tmp_path / "token").unlink()
    await clock.advance(FRESH)
    await cluster.get(SlimRule, "x")
    assert tokens(server) == ["one", "one", "two", "two"]
    await cluster.close()


async def test_an_expired_token_is_read_again_once(server: Server, tmp_path: Path) -> None:
    """After a 401 the file is read at once and the call made again; with nothing new in it the refusal stands."""
    (tmp_path / "token").write_text("old")
    cluster = await KubernetesCluster.open(in_cluster(server.url, tmp_path, clock=ManualClock()))
    server.plan(FOUND, REFUSED, FOUND, REFUSED)
    await cluster.get(SlimRule, "x")
    (tmp_path / "token").write_text("new")
    await cluster.get(SlimRule, "x")
    with pytest.raises(ForbiddenError) as caught:
        await cluster.get(SlimRule, "x")
    assert tokens(server) == ["old", "old", "new", "new"]
    assert "credentials" in str(caught.value)
    await cluster.close()


async def test_credentials_that_lapse_are_an_outage_once_the_server_knew_us(server: Server, tmp_path: Path) -> None:
    """A token file half written stops nothing for good; the same file at the start is an error to mend."""
    server.plan(FOUND, FOUND)
    (tmp_path / "token").write_bytes(b"\x00\x01")
    cluster = await KubernetesCluster.open(in_cluster(server.url, tmp_path, clock=ManualClock()))
    with pytest.raises(PermanentError, match="token"):
        await cluster.get(SlimRule, "x")
    await cluster.close()
    (tmp_path / "token").write_text("good")
    clock = ManualClock()
    cluster = await KubernetesCluster.open(in_cluster(server.url, tmp_path, clock=clock))
    await cluster.get(SlimRule, "x")
    (tmp_path / "token").write_bytes(b"\x00\x01")
    await clock.advance(61)
    with pytest.raises(UnavailableError, match="token"):
        await cluster.get(SlimRule, "x")
    (tmp_path / "token").write_text("better")
    await clock.advance(61)
    await cluster.get(SlimRule, "x")
    assert tokens(server) == ["good", "better"]
    await cluster.close()


async def test_a_plugin_runs_again_when_its_token_ends_or_is_refused(server: Server, tmp_path: Path) -> None:
    """It runs once for many calls, again shortly before the end, again after a 401, and not in a storm of them."""
    clock = ManualClock()
    ends = [{"token": f"t{n}", "expirationTimestamp": f"2026-01-01T00:{10 * n:02}:00Z"} for n in (1, 2, 3, 4)]
    path = tmp_path / "login"
    config = kubeconfig(
        tmp_path / "config", {"exec": plugin(path, *ends) | {"env": [{"name": "GIVEN", "value": "g"}]}},
        {"server": server.url},
    )  # fmt: skip
    cluster = await KubernetesCluster.open(from_kubeconfig(config, environ={"PATH": "/usr/bin"}, clock=clock))
    server.plan(FOUND)
    for _ in range(3):
        await cluster.get(SlimRule, "x")
    await clock.advance(571)
    await cluster.get(SlimRule, "x")
    assert tokens(server) == ["t1", "t1", "t1", "t2"]
    server.plan(REFUSED, FOUND)
    await clock.advance(PAUSE)
    await cluster.get(SlimRule, "x")
    assert tokens(server)[4:] == ["t2", "t3"]
    server.plan(REFUSED)
    for _ in range(5):
        with pytest.raises(ForbiddenError):
            await cluster.get(SlimRule, "x")
    assert len(runs(path)) == 3
    info, given = runs(path)[0]
    assert json.loads(info) == {
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "spec": {"interactive": False},
    }  # fmt: skip
    assert given == "g"
    await cluster.close()


async def test_whoever_gives_up_on_a_slow_plugin_leaves_it_at_work(tmp_path: Path) -> None:
    """A Lease waits five seconds, a login may take longer: the next call gets what the first one began."""
    login = tmp_path / "login"
    answer = {"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "status": {"token": "t"}}
    os.mkfifo(tmp_path / "door")
    login.write_text(f"#!/bin/sh\necho run >>runs\nread line <door\necho '{json.dumps(answer)}'\n")
    login.chmod(0o700)
    entry = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": ["-c", f"cd {tmp_path}; ./login"],
    }
    access = from_kubeconfig(kubeconfig(tmp_path / "config", {"exec": entry}), environ={"PATH": "/usr/bin:/bin"})
    for _ in range(3):
        with anyio.move_on_after(0.05) as scope:
            await access.identity()
        assert scope.cancelled_caught
    with (tmp_path / "door").open("w") as door:
        door.write("in\n")
    assert (await access.identity()).token.reveal() == "t"
    assert (tmp_path / "runs").read_text() == "run\n"
    await access.close()


async def test_a_plugin_that_nobody_waits_for_ends_with_us(tmp_path: Path) -> None:
    """Closing leaves no process behind."""
    entry = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": ["-c", f"echo $$ >{tmp_path}/pid; exec sleep 600"],
    }
    access = from_kubeconfig(kubeconfig(tmp_path / "config", {"exec": entry}), environ={"PATH": "/usr/bin:/bin"})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(access.identity)
        while not (pid := (tmp_path / "pid")).exists() or not pid.read_text().strip():  # noqa: ASYNC110 - of a process
            await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    await access.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


async def test_a_plugin_that_fails_is_not_run_in_a_storm(tmp_path: Path) -> None:
    """Its failure answers for some seconds; a token that has not ended is shown meanwhile."""
    clock = ManualClock()
    path = tmp_path / "login"
    entry = plugin(path, {"token": "t1", "expirationTimestamp": "2026-01-01T00:10:00Z"}, {}, {}, {"token": "t2"})
    access = from_kubeconfig(
        kubeconfig(tmp_path / "config", {"exec": entry}), environ={"PATH": "/usr/bin"}, clock=clock
    )
    assert (await access.identity()).token.reveal() == "t1"
    await clock.advance(580)
    for _ in range(5):
        assert (await access.identity()).token.reveal() == "t1"
    assert len(runs(path)) == 2
    await clock.advance(21)
    for _ in range(5):
        with pytest.raises(PermanentError, match="neither token nor certificate"):
            await access.identity()
    assert len(runs(path)) == 3
    await clock.advance(PAUSE)
    assert (await access.identity()).token.reveal() == "t2"
    await access.close()


async def test_a_certificate_that_changes_before_its_key_is_not_shown(tmp_path: Path) -> None:
    """Two files are not replaced at once: the last pair counts until the new one is whole, and then at once."""
    clock = ManualClock()
    authority = Authority(tmp_path, "ca")
    old, new = authority.issue("one", "us"), authority.issue("two", "us")
    (tmp_path / "c").write_bytes(old.certificate.read_bytes())
    (tmp_path / "k").write_bytes(old.key.read_bytes())
    config = kubeconfig(tmp_path / "config", {"client-certificate": "c", "client-key": "k"})
    access = from_kubeconfig(config, clock=clock)
    first = await access.identity()
    (tmp_path / "c").write_bytes(new.certificate.read_bytes())
    await clock.advance(61)
    assert (await access.identity()).same(first)
    (tmp_path / "k").write_bytes(new.key.read_bytes())
    second = await access.identity()
    assert not second.same(first)
    await access.tls(second)


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({"command": "no-such-program", "installHint": "get it"}, PermanentError),
        ({"command": "false"}, UnavailableError),
        ({"command": "true"}, PermanentError),
        ({"command": "echo", "args": ["hidden"]}, PermanentError),
        ({"command": "cat", "interactiveMode": "Always"}, PermanentError),
        ({"command": "true", "apiVersion": "client.authentication.k8s.io/v1alpha1"}, PermanentError),
    ],
    ids=str,
)
async def test_a_plugin_that_does_not_work_is_named(
    tmp_path: Path, entry: dict[str, Any], error: type[UgalluError]
) -> None:
    """What is wrong is said, what it printed is not."""
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", **entry}}
    access = from_kubeconfig(kubeconfig(tmp_path / "config", user), environ={"PATH": "/usr/bin:/bin"})
    with pytest.raises(error) as caught:
        await access.identity()
    assert type(caught.value) is error
    assert entry["command"] in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        {"status": {"clientCertificateData": "hidden"}},
        {"status": {}},
        {"kind": "Pod", "status": {"token": "hidden"}},
        {"apiVersion": "v1", "status": {"token": "hidden"}},
        {"status": {"token": ["hidden"]}},
        {"status": {"token": "hidden", "expirationTimestamp": "soon"}},
    ],
    ids=str,
)
def test_what_is_no_credential_is_refused(said: dict[str, Any]) -> None:
    """Half a pair, nothing, another kind, another version or another type; no message quotes it."""
    api = "client.authentication.k8s.io/v1"
    output = msgspec.json.encode({"kind": "ExecCredential", "apiVersion": api, **said})
    with pytest.raises(PermanentError) as caught:
        printed(output, api)
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("user", "cluster"),
    [
        ({"username": "u", "password": "hidden"}, None),
        ({"auth-provider": {"name": "oidc", "config": {"id-token": "hidden"}}}, None),
        ({"token": ["hidden"]}, None),
        ({"client-certificate-data": "hidden!", "client-key-data": "aGlkZGVu"}, None),
        ({}, {"server": "ftp://x"}),
        ({}, {"server": "https://user:hidden@10.0.0.1"}),
        ({}, {"server": "https://10.0.0.1", "proxy-url": "socks5://user:hidden@p"}),
        ({}, {"insecure-skip-tls-verify": True}),
        ({}, {"server": "ftp://user:hidden@x"}),
        ({}, {"server": "https://user:hidden@[::1"}),
        ({}, {"server": "https://10.0.0.1:66666"}),
        ({}, {"server": "fd00::1"}),
        ({}, {"server": "https://a..b"}),
        ({}, {"server": "https://10.0.0.1", "proxy-url": "http://user:hidden@p:x"}),
        ({}, {"server": "https://10.0.0.1", "proxy-url": "http://user:hidden@"}),
    ],
    ids=str,
)
def test_what_a_kubeconfig_cannot_mean_is_refused(tmp_path: Path, user: Any, cluster: Any) -> None:
    """The context or the file is named, the secret is not."""
    with pytest.raises(PermanentError) as caught:
        from_kubeconfig(kubeconfig(tmp_path / "config", user, cluster))
    assert caught.value.where
    assert "hidden" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("text", ["a: [hidden", "- a\n", "hidden", "users: [{user: {token: t}}]\n", "a: &a [*a, *a]\n"])
def test_a_file_that_is_none_is_named_without_quoting_it(tmp_path: Path, text: str) -> None:
    """YAML errors quote the text around them, which may be a token: ours do not."""
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(PermanentError) as caught:
        from_kubeconfig(path)
    assert str(path) in str(caught.value)
    assert "hidden" not in str(caught.value)
    with pytest.raises(PermanentError, match="no such kubeconfig"):
        from_kubeconfig(tmp_path / "none")


async def test_several_files_are_joined_as_kubectl_does(tmp_path: Path) -> None:
    """The first file that names a thing wins; paths are relative to the file they stand in; missing files are passed over."""
    one, two = tmp_path / "a", tmp_path / "b"
    for folder in (one, two):
        folder.mkdir()
        (folder / "token").write_text(folder.name)
    kubeconfig(
        one / "config", {"tokenFile": "token"}, {"server": "https://first"}, contexts=[],
    )  # fmt: skip
    kubeconfig(two / "config", {"token": "second"}, {"server": "https://second"}, **{"current-context": "other"})
    joined = os.pathsep.join(map(str, (tmp_path / "none", one / "config", two / "config")))
    access = from_kubeconfig(joined)
    assert access.server == "https://first"
    assert (await access.identity()).token.reveal() == "a"
    with pytest.raises(PermanentError, match="no context named 'nowhere'"):
        from_kubeconfig(joined, "nowhere")


async def test_impersonation_is_in_the_headers(server: Server, tmp_path: Path) -> None:
    """A kubeconfig's `as`."""
    user = {"token": "t", "as": "jane", "as-groups": ["a", "b"], "as-uid": "7", "as-user-extra": {"Scope/x": ["y"]}}
    access = from_kubeconfig(kubeconfig(tmp_path / "config", user, {"server": server.url}))
    server.plan(FOUND)
    cluster = await KubernetesCluster.open(access)
    await cluster.get(SlimRule, "x")
    await cluster.close()
    headers = server.requests[0].headers
    assert (headers["impersonate-user"], headers["impersonate-uid"]) == ("jane", "7")
    assert headers["impersonate-extra-scope%2fx"] == "y"
    assert [value for name, value in access.headers(await access.identity()) if name == "Impersonate-Group"] == [
        "a",
        "b",
    ]


async def test_a_token_is_not_sent_where_others_read_it() -> None:
    """Plain http to another machine gets no token; on this one it does, as with `kubectl proxy`."""
    token = Kept(token=Material(data=b"hidden"))
    far = Access("http://10.0.0.1", token)
    with pytest.raises(PermanentError) as caught:
        far.headers(await far.identity())
    assert "hidden" not in str(caught.value)
    near = Access("http://127.0.0.1:8001", token)
    assert near.headers(await near.identity())


@pytest.mark.parametrize("target", ["https://10.0.0.1:6443", "http://127.0.0.1:9"])
async def test_a_proxy_is_shown_its_credentials_and_nobody_else(server: Server, target: str) -> None:
    """They are in the header that the proxy asks for, and in no URL that an error or its cause could quote."""
    server.plan(reply(407, b"", Proxy_Authenticate="Basic"))
    proxy = server.url.replace("http://", "http://us%40er:hid%2Fden@")
    access = Access(target, Kept(), proxy=proxy)
    cluster = await KubernetesCluster.open(access)
    with pytest.raises(UnavailableError) as caught:
        await cluster.get(SlimRule, "x")
    await cluster.close()
    sent = server.requests[0].headers["proxy-authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent) == b"us@er:hid/den"
    said = "".join(traceback.format_exception(caught.value)) + repr(
        (caught.value, caught.value.__cause__, vars(access))
    )
    assert "hid" not in said
    assert sent not in said
    assert "407" in str(caught.value)


async def test_why_there_is_no_connection_is_said_in_plain_words() -> None:
    """The machine, the port and the system's reason; no object of a library."""
    cluster = await KubernetesCluster.open(Access("https://[::1]:1", Kept()))
    with pytest.raises(UnavailableError, match=r"no connection to ::1:1: Connection refused$"):
        await cluster.get(SlimRule, "x")
    await cluster.close()


async def test_no_secret_is_shown(tmp_path: Path) -> None:
    """Not in a repr, not in the error for a token that cannot be sent."""
    user = {
        "token": "hidden",
        "client-certificate-data": base64.b64encode(b"hidden").decode(),
        "client-key-data": "aGlkZGVu",
    }
    access = from_kubeconfig(kubeconfig(tmp_path / "config", user))
    identity = await access.identity()
    shown = repr((access, vars(access), identity, identity.token, vars(access)["_identities"]))
    assert "hidden" not in shown
    assert "aGlkZGVu" not in shown
    with pytest.raises(PermanentError) as caught:
        await access.tls(identity)
    assert "hidden" not in str(caught.value)
    broken = Access("https://x", Kept(token=Material(data=b"hid\nden")))
    with pytest.raises(PermanentError) as caught:
        await broken.identity()
    assert "hid" not in str(caught.value)


def test_an_account_without_a_token_says_so(tmp_path: Path) -> None:
    """A Pod that mounts no token is told which field to look at."""
    with pytest.raises(PermanentError, match="automountServiceAccountToken"):
        in_cluster("10.96.0.1:443", tmp_path)
