"""S3 servers that enforce object locks, on this machine: one process, its data in the ground's folder."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rig import go
from tests.rig.ground import Ground, Process, answers, free_port, wait

ACCESS_KEY = "testaccess"
SECRET_KEY = "testsecretkey"  # a server of this test run alone


@dataclass(frozen=True, slots=True)
class Kind:
    """How a server is started: its program, arguments for a port and a folder, environment, and what says it is ready."""

    program: go.Program
    arguments: tuple[str, ...]
    environ: dict[str, str]
    ready: str


# Locks hold without a versions folder too, but then a PUT answers without a version id, which evidence needs.
VERSITYGW = Kind(
    go.VERSITYGW,
    (
        *("--port", "127.0.0.1:{port}", "--health", "/healthz", "--quiet"),
        *("posix", "--versioning-dir", "{folder}/versions", "{folder}/data"),
    ),
    {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
    "/healthz",
)
MINIO = Kind(
    go.MINIO,
    ("server", "--quiet", "--address", "127.0.0.1:{port}", "{folder}/data"),
    {
        "MINIO_ROOT_USER": ACCESS_KEY,
        "MINIO_ROOT_PASSWORD": SECRET_KEY,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        # Without a key every request for encryption is refused as not implemented.
        "MINIO_KMS_SECRET_KEY": "test-key:bXltaW5pb3Rlc3RrZXlvZjMyYnl0ZXMhISEhISEhISE=",
    },
    "/minio/health/ready",
)

KINDS = {kind.program.name: kind for kind in (VERSITYGW, MINIO)}


class S3Server:
    """A running server; `bucket` names are free for everybody who shares it."""

    def __init__(self, kind: Kind = VERSITYGW) -> None:
        self.kind = kind
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        binary = go.provide(self.kind.program)
        self.ground = Ground()
        self.folder = self.ground.folder / "s3"
        for name in ("data", "versions"):
            (self.folder / name).mkdir(parents=True)
        self.process = _Server(self, binary)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ground.clear()

    def start(self) -> None:
        """Start the server, with the data there is, and wait until it answers."""
        self.process.start()
        wait("the S3 server", self._ready, hint=self.process.tail)

    def name(self) -> str:
        """Return a name for a bucket that nobody has taken."""
        return f"evidence-{secrets.token_hex(6)}"

    def _ready(self) -> bool:
        self.process.check()
        return answers(f"{self.endpoint}{self.kind.ready}")


class _Server(Process):
    def __init__(self, server: S3Server, binary: Path) -> None:
        places = {"port": server.port, "folder": server.folder}
        arguments = [argument.format(**places) for argument in server.kind.arguments]
        ground = server.ground
        environ = {**ground.environ, **server.kind.environ}
        super().__init__(server.kind.program.name, [str(binary), *arguments], ground.log / "s3.log", environ)
        ground.processes.append(self)
