"""Credentials that a program prints (exec plug-ins of a kubeconfig), run again as they end.

Source of the protocol: `k8s.io/client-go/pkg/apis/clientauthentication/v1` (v1beta1 says the same).
"""

import base64
import datetime as dt
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import anyio
import msgspec
from anyio.abc import Process

from ugallu.clock import Clock, SystemClock
from ugallu.cluster.kubernetes.identity import Identity, Material, header_value
from ugallu.cluster.kubernetes.kubeconfig import ClusterEntry, Plugin
from ugallu.cluster.port import UnavailableError
from ugallu.errors import PermanentError, UgalluError
from ugallu.settings import Secret

API: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
MARGIN: Final = 30.0
"""Seconds before its end that a credential is renewed."""
PAUSE: Final = 5.0
"""Seconds between two runs, whatever a server refuses and however they end."""
WITHIN: Final = 60.0
"""Seconds that a plug-in may take: some talk to an identity provider."""
OUTPUT: Final = 1 << 20
"""Bytes that it may print."""


class Printed(msgspec.Struct, frozen=True):
    """What a plug-in handed out: a token, or a certificate with its key, and until when."""

    token: Secret[str]
    certificate: Secret[bytes]
    expires: dt.datetime | None


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: dt.datetime | None = None

    def __repr__(self) -> str:
        return "_Status(***)"


class _Credential(msgspec.Struct, frozen=True, rename="camel"):
    kind: str
    api_version: str
    status: _Status


class Run:
    """A plug-in at work. Whoever waits for it may give up: it goes on, and the next one who asks waits for the same."""

    def __init__(self, process: Process, api_version: str, where: str) -> None:
        self._process, self._api_version, self._where = process, api_version, where
        self._output = bytearray()
        self._until = anyio.current_time() + WITHIN

    @classmethod
    async def of(cls, plugin: Plugin, folder: Path, environ: Mapping[str, str], cluster: Mapping[str, Any]) -> Self:
        """Start the plug-in.

        `folder` is what a command with a slash is relative to, `cluster` what the plug-in is told of the cluster when
        it asked for that. Raises `PermanentError` for a plug-in that cannot work.
        """
        where = f"exec plug-in {plugin.command}"
        if plugin.api_version not in API:
            raise PermanentError(f"apiVersion {plugin.api_version!r} is not known", where=where, fix=f"use {API[0]}")
        if plugin.interactive_mode == "Always":
            raise PermanentError("it wants a terminal", where=where, fix="use one that can run without")
        command = plugin.command
        if os.sep in command:
            command = str(folder / command)
        about: dict[str, Any] = {
            "apiVersion": plugin.api_version,
            "kind": "ExecCredential",
            "spec": {"interactive": False, **({"cluster": dict(cluster)} if plugin.provide_cluster_info else {})},
        }
        given = {variable.name: variable.value for variable in plugin.env or ()}
        env = {**environ, **given, "KUBERNETES_EXEC_INFO": msgspec.json.encode(about).decode()}
        try:
            with anyio.CancelScope(shield=True):
                # What it says on stderr is not repeated: nobody knows what it prints there.
                process = await anyio.open_process(
                    [command, *(plugin.args or ())], env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
        except OSError as error:
            hint = plugin.install_hint.strip() or "install it, or check PATH"
            raise PermanentError(f"cannot be run: {error.strerror}", where=where, fix=hint) from error
        return cls(process, plugin.api_version, where)

    async def printed(self) -> Printed:
        """Return what it prints.

        Raises `UnavailableError` when it fails, takes too long or talks without end, `PermanentError` when what it
        prints is no credential.
        """
        assert self._process.stdout is not None
        try:
            with anyio.fail_after(max(0.0, self._until - anyio.current_time())):
                async for chunk in self._process.stdout:
                    self._output += chunk
                    if len(self._output) > OUTPUT:
                        raise UnavailableError(f"it printed more than {OUTPUT} bytes", where=self._where)
                code = await self._process.wait()
        except TimeoutError as error:
            raise UnavailableError(f"no answer within {WITHIN:g} s", where=self._where) from error
        if code:
            raise UnavailableError(f"ended with {code}", where=self._where, fix="run it by hand to see why")
        return printed(bytes(self._output), self._api_version, self._where)

    async def close(self) -> None:
        """End it, if it has not ended."""
        if self._process.returncode is None:
            self._process.kill()
        with anyio.CancelScope(shield=True):
            await self._process.aclose()


def printed(output: bytes, api_version: str, where: str = "") -> Printed:
    """Return what a plug-in's output says; raises `PermanentError` for what is no credential."""
    try:
        said = msgspec.json.decode(output, type=_Credential)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Without its cause, which could quote the output.
        raise PermanentError("it printed no ExecCredential", where=where) from None
    if said.kind != "ExecCredential" or said.api_version != api_version:
        raise PermanentError(f"it printed no {api_version} ExecCredential", where=where)
    status = said.status
    if bool(status.client_certificate_data) != bool(status.client_key_data):
        raise PermanentError("it printed a certificate without a key, or a key without one", where=where)
    if not status.token and not status.client_certificate_data:
        raise PermanentError("it printed neither token nor certificate", where=where)
    pair = f"{status.client_certificate_data}\n{status.client_key_data}\n" if status.client_certificate_data else ""
    return Printed(Secret(status.token.strip()), Secret(pair.encode()), status.expiration_timestamp)


def cluster_info(cluster: ClusterEntry, ca: bytes) -> dict[str, Any]:
    """Return what a plug-in is told of its cluster (`ExecCredential.spec.cluster`)."""
    info: dict[str, Any] = {"server": cluster.server}
    if cluster.tls_server_name:
        info["tls-server-name"] = cluster.tls_server_name
    if cluster.insecure_skip_tls_verify:
        info["insecure-skip-tls-verify"] = True
    if ca:
        info["certificate-authority-data"] = base64.b64encode(ca).decode()
    if cluster.proxy_url:
        info["proxy-url"] = cluster.proxy_url
    return info


class Plugged:
    """An identity that an exec plug-in prints."""

    def __init__(
        self,
        plugin: Plugin,
        folder: Path,
        environ: Mapping[str, str],
        cluster: ClusterEntry,
        ca: Material,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._plugin, self._folder, self._environ = plugin, folder, environ
        self._cluster, self._ca = cluster, ca
        self._clock = clock or SystemClock()
        self._printed: Printed | None = None
        self._running: Run | None = None
        self._ended_at = float("-inf")
        self._failure: UgalluError | None = None

    async def current(self) -> Identity:
        """Return what it printed, running it when that is about to end."""
        kept = self._printed
        if kept is None:
            return await self._ask()
        left = MARGIN + 1 if kept.expires is None else (kept.expires - self._clock.now()).total_seconds()
        if left > MARGIN:
            return _shown(kept)
        try:
            return await self._ask()
        except UgalluError:
            if left <= 0:
                raise
            return _shown(kept)

    async def renewed(self) -> Identity:
        """Run it now, unless it just ran."""
        return await self._ask()

    async def close(self) -> None:
        """End the plug-in, if it is at work."""
        running, self._running = self._running, None
        if running is not None:
            await running.close()

    async def _ask(self) -> Identity:
        if self._running is None and self._clock.monotonic() - self._ended_at < PAUSE:
            if self._failure is not None:
                raise self._failure
            if self._printed is not None:
                return _shown(self._printed)
        running = self._running
        try:
            if running is None:
                told = cluster_info(self._cluster, await self._ca.read())
                running = self._running = await Run.of(self._plugin, self._folder, self._environ, told)
            self._printed = await running.printed()
        except UgalluError as error:
            self._failure = error
            await self._over()
            raise
        self._failure = None
        await self._over()
        return _shown(self._printed)

    async def _over(self) -> None:
        self._ended_at = self._clock.monotonic()
        await self.close()


def _shown(printed: Printed) -> Identity:
    return Identity(header_value(printed.token.reveal().encode()), printed.certificate.reveal())
