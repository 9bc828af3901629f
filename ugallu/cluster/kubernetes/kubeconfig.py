"""kubeconfig files: several joined as kubectl joins them, and what one context of them says.

Source of the format: `k8s.io/client-go/tools/clientcmd/api/v1`. The first file that names a thing wins, and paths are
relative to the file that they stand in. Values of credentials are in no repr.
"""

import base64
import binascii
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ugallu.errors import PermanentError
from ugallu.settings import Secret

T = TypeVar("T")


class _Hidden(msgspec.Struct, frozen=True, rename="kebab"):
    """Its fields are in no repr: some of them are secrets."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"


class ClusterEntry(_Hidden, frozen=True, rename="kebab"):
    """Where a server is and how to know that it is the right one."""

    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""
    disable_compression: bool = False


class Variable(_Hidden, frozen=True):
    """An environment variable of a plug-in."""

    name: str
    value: str = ""


class Plugin(_Hidden, frozen=True, rename="camel"):
    """A program that prints credentials."""

    command: str
    api_version: str = ""
    args: tuple[str, ...] | None = None
    env: tuple[Variable, ...] | None = None
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = "IfAvailable"


class UserEntry(_Hidden, frozen=True, rename="kebab"):
    """Who we are there."""

    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(name="tokenFile", default="")
    username: str = ""
    password: str = ""
    exec: Plugin | None = None
    auth_provider: Any = None
    as_: str = msgspec.field(name="as", default="")
    as_uid: str = ""
    as_groups: tuple[str, ...] | None = None
    as_user_extra: dict[str, tuple[str, ...]] | None = None


class ContextEntry(msgspec.Struct, frozen=True):
    """A pair of cluster and user."""

    cluster: str = ""
    user: str = ""
    namespace: str = ""


class _Named(msgspec.Struct, frozen=True):
    name: str
    cluster: ClusterEntry | None = None
    user: UserEntry | None = None
    context: ContextEntry | None = None


class _File(msgspec.Struct, frozen=True, rename="kebab"):
    current_context: str = ""
    clusters: tuple[_Named, ...] | None = None
    users: tuple[_Named, ...] | None = None
    contexts: tuple[_Named, ...] | None = None


class Chosen(msgspec.Struct, frozen=True):
    """One context, with the folders that its cluster's and its user's paths are relative to."""

    name: str
    namespace: str
    cluster: ClusterEntry
    cluster_folder: Path
    user: UserEntry
    user_folder: Path


def load(paths: Iterable[Path], context: str = "") -> Chosen:
    """Return what a context says; an empty one is the current one. Reads files.

    Raises `PermanentError` that names the file and what is wrong in it.
    """
    files = [(path, _read(path)) for path in paths if path.exists()]
    where = os.pathsep.join(map(str, paths))
    if not files:
        raise PermanentError("no such kubeconfig", where=where, fix="check --kubeconfig")
    name = context or next((file.current_context for _, file in files if file.current_context), "")
    if not name:
        raise PermanentError("no current-context", where=where, fix="choose a context")
    chosen, _ = _find("context", name, ((path, file.contexts) for path, file in files), where)
    assert chosen.context is not None
    cluster, cluster_path = _find(
        "cluster", chosen.context.cluster, ((path, file.clusters) for path, file in files), where
    )
    user, user_path = UserEntry(), files[0][0]
    if chosen.context.user:
        found, user_path = _find("user", chosen.context.user, ((path, file.users) for path, file in files), where)
        user = found.user or user
    assert cluster.cluster is not None
    return Chosen(
        name,
        chosen.context.namespace,
        cluster.cluster,
        cluster_path.absolute().parent,
        user,
        user_path.absolute().parent,
    )


def inline(text: str, field: str, where: str) -> Secret[bytes]:
    """Return the bytes of a `*-data` field, which are base64; empty for an empty one."""
    try:
        return Secret(base64.b64decode("".join(text.split()), validate=True))
    except (binascii.Error, ValueError) as error:
        raise PermanentError(f"{field} is no base64", where=where) from error


def _find(
    what: str, name: str, files: Iterable[tuple[Path, tuple[_Named, ...] | None]], where: str
) -> tuple[_Named, Path]:
    for path, entries in files:
        for entry in entries or ():
            if entry.name == name and getattr(entry, what) is not None:
                return entry, path
    raise PermanentError(f"no {what} named {name!r}", where=where)


def _read(path: Path) -> _File:
    import yaml

    try:
        raw: Any = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - safe
    except OSError as error:
        raise PermanentError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except yaml.MarkedYAMLError as error:
        # The error itself would quote the file, and with it a credential.
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise PermanentError(f"no YAML, line {line}", where=str(path)) from None
    except (yaml.YAMLError, RecursionError):
        raise PermanentError("no YAML", where=str(path)) from None
    if not isinstance(raw, Mapping):
        raise PermanentError("no kubeconfig", where=str(path))
    try:
        return msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        raise PermanentError(f"no kubeconfig: {error}", where=str(path)) from error
