"""`Access`: which server, whom to trust, and who we are; tokens and certificates are renewed as they change.

Files are read again each minute and after a 401, plug-ins run again when what they printed expires and after a 401. No
secret is in a repr, a log line or an error.
"""

import base64
import os
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

import anyio

from ugallu.clock import Clock
from ugallu.cluster.kubernetes import tls
from ugallu.cluster.kubernetes.identity import Identities, Identity, Kept, Material
from ugallu.errors import PermanentError
from ugallu.settings import Secret

_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class Access:
    """How to reach one API server as one identity; made by `in_cluster` or `from_kubeconfig`."""

    def __init__(
        self,
        server: str,
        identities: Identities,
        *,
        ca: Material | None = None,
        verify: bool = True,
        server_name: str = "",
        proxy: str = "",
        namespace: str = "",
        impersonate: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        """`server_name` is what the server's certificate must name, if not its host; `impersonate` are headers."""
        parts = _split(server if "://" in server else f"https://{server}", "server")
        if parts.username or parts.password:
            raise PermanentError("credentials in the server's URL are not supported", where=parts.hostname or "server")
        self.server = parts._replace(query="", fragment="", path=parts.path.rstrip("/")).geturl()
        self.server_name = server_name
        self.proxy, self.proxy_login = _proxy(proxy)
        """An http(s) URL without credentials, empty for none; and what its `Proxy-Authorization` says."""
        self.namespace = namespace
        """The namespace that a Pod is in or a context names, empty if neither."""
        self._secure = parts.scheme == "https"
        self._guarded = self._secure or parts.hostname in _LOOPBACK
        self._identities = identities
        self._ca = ca or Material()
        self._verify = verify
        self._impersonate = tuple((name, value) for name, values in (impersonate or {}).items() for value in values)
        self._lock = anyio.Lock()
        self._tls: tuple[bytes, bytes, ssl.SSLContext] | None = None

    def __repr__(self) -> str:
        return f"Access({self.server!r})"

    async def identity(self) -> Identity:
        """Return the identity to show now."""
        async with self._lock:
            return await self._identities.current()

    def headers(self, identity: Identity) -> list[tuple[str, str]]:
        """Return the headers that show an identity; raises `PermanentError` where others would read them."""
        token, login = identity.token.reveal(), self.proxy_login.reveal()
        shown = list(self._impersonate)
        if login and not self._secure:
            # Without a tunnel the proxy reads the request itself.
            shown.append(("Proxy-Authorization", login))
        if not token:
            return shown
        if not self._guarded:
            raise PermanentError("a token is not sent over plain http", where=self.server, fix="use https")
        return [("Authorization", f"Bearer {token}"), *shown]

    async def tls(self, identity: Identity) -> ssl.SSLContext | None:
        """Return the TLS context for an identity and the CA as it is now, None for a server without TLS."""
        if not self._secure:
            return None
        ca, certificate = await self._ca.read(), identity.certificate.reveal()
        if self._tls is None or self._tls[:2] != (ca, certificate):
            made = tls.context(ca=ca, certificate=certificate, verify=self._verify, where=self.server)
            self._tls = (ca, certificate, made)
        return self._tls[2]

    async def renew(self, refused: Identity) -> bool:
        """After a 401: tell whether there is another identity to show than the one that was refused."""
        async with self._lock:
            if not (await self._identities.current()).same(refused):
                return True
            return not (await self._identities.renewed()).same(refused)

    async def close(self) -> None:
        """Let go of what is under way, such as a plug-in that nobody waits for."""
        await self._identities.close()


def in_cluster(server: str, account: Path, *, clock: Clock | None = None) -> Access:
    """Return the access of this Pod's service account.

    `server` is `HOST:PORT` or a URL; `account` the folder with `token`, `ca.crt` and `namespace`. Raises
    `PermanentError` when there is no token.
    """
    token = account / "token"
    if not token.exists():
        raise PermanentError(
            "no service account token is mounted", where=str(token), fix="see automountServiceAccountToken of the Pod"
        )
    namespace = account / "namespace"
    return Access(
        server,
        Kept(token=Material(path=token, clock=clock)),
        ca=Material(path=account / "ca.crt", clock=clock),
        namespace=namespace.read_text(encoding="utf-8").strip() if namespace.exists() else "",
    )


def from_kubeconfig(
    path: Path | str, context: str = "", *, environ: Mapping[str, str] | None = None, clock: Clock | None = None
) -> Access:
    """Return the access that a context of a kubeconfig describes; reads files.

    `path` may be several, joined as in `KUBECONFIG`. `environ` is what exec plug-ins get beside what the file gives
    them; without it they find no PATH. Raises `PermanentError` that names the file and the field.
    """
    from ugallu.cluster.kubernetes import kubeconfig, plugin

    paths = [Path(part).expanduser() for part in str(path).split(os.pathsep) if part]
    chosen = kubeconfig.load(paths, context)
    cluster, user = chosen.cluster, chosen.user
    where = f"context {chosen.name}"
    if not cluster.server:
        raise PermanentError("no server", where=where)
    if user.username or user.password:
        raise PermanentError(
            "basic authentication is gone from Kubernetes", where=where, fix="use a token or certificate"
        )
    if user.auth_provider is not None:
        raise PermanentError("auth-provider is not supported", where=where, fix="use an exec plug-in")

    def material(data: str, file: str, field: str, folder: Path) -> Material:
        if data:
            return Material(data=kubeconfig.inline(data, f"{field}-data", where).reveal())
        return Material(path=folder / file, clock=clock) if file else Material()

    ca = material(
        cluster.certificate_authority_data,
        cluster.certificate_authority,
        "certificate-authority",
        chosen.cluster_folder,
    )
    certificate = material(
        user.client_certificate_data, user.client_certificate, "client-certificate", chosen.user_folder
    )
    key = material(user.client_key_data, user.client_key, "client-key", chosen.user_folder)
    identities: Identities
    if user.exec is not None and not (user.token or user.token_file):
        identities = plugin.Plugged(user.exec, chosen.user_folder, environ or {}, cluster, ca, clock=clock)
    else:
        token = Material(path=chosen.user_folder / user.token_file, clock=clock) if user.token_file else Material(
            data=user.token.encode()
        )  # fmt: skip
        identities = Kept(token=token, certificate=certificate, key=key)
    return Access(
        cluster.server,
        identities,
        ca=ca,
        verify=not cluster.insecure_skip_tls_verify,
        server_name=cluster.tls_server_name,
        proxy=cluster.proxy_url,
        namespace=chosen.namespace,
        impersonate=acting_as(user.as_, user.as_groups or (), uid=user.as_uid, extra=user.as_user_extra or {}),
    )


def _split(url: str, field: str) -> SplitResult:
    """Return the parts of an http(s) URL; raises `PermanentError` that shows no credentials."""
    shown = url.rpartition("@")[2] or field
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for what is none
        host = (parts.hostname or "").encode("idna")
    except ValueError as error:
        # Without its cause, which may quote all of it.
        what = "a name in it is none" if isinstance(error, UnicodeError) else "host or port is none"
        raise PermanentError(f"no URL: {what}", where=shown, fix=f"check `{field}`") from None
    if parts.scheme not in ("http", "https") or not host:
        raise PermanentError("no http(s) URL", where=shown, fix=f"check `{field}`")
    return parts


def _proxy(url: str) -> tuple[str, Secret[str]]:
    """Return a proxy's URL apart from the credentials in it, so that no message can quote them."""
    if not url:
        return "", Secret("")
    parts = _split(url, "proxy-url")
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    shown = "" if login == ":" else f"Basic {base64.b64encode(login.encode()).decode()}"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), Secret(shown)


def acting_as(
    user: str, groups: Iterable[str] = (), *, uid: str = "", extra: Mapping[str, Iterable[str]] | None = None
) -> dict[str, tuple[str, ...]]:
    """Return the headers that make us speak for another user; none for no user."""
    if not user:
        return {}
    headers = {
        "Impersonate-User": (user,),
        "Impersonate-Group": tuple(groups),
        "Impersonate-Uid": (uid,) if uid else (),
    }
    for name, values in (extra or {}).items():
        headers[f"Impersonate-Extra-{quote(name.lower(), safe='')}"] = tuple(values)
    return headers
