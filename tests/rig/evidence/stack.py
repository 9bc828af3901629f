"""A private Sigstore on loopback: issuer, certificate authority and its log, Rekor v1 and v2, timestamp authority.

Flags and their reasons are those that each service was seen to need: an own address for every port that can be chosen,
short intervals, empty folders. Rekor v2 answers no reads: its tiles are files that a server of ours hands out.
"""

import base64
import functools
import http.client
import socket
import threading
import time
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.rig import go
from tests.rig.evidence import keys as rig_keys
from tests.rig.evidence import programs
from tests.rig.evidence.issuer import Issuer
from tests.rig.ground import Ground, Process, free_port, wait
from ugallu.evidence import trusted_root
from ugallu.evidence.logs import note

START = "2020-01-01T00:00:00Z"


class Sigstore:
    """The services; use as a context manager, nothing is left behind."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """How long the start took, programs being there."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start all services at once and wait until each answers; raises `RigError` with the log of what failed."""
        for program in programs.PROGRAMS:
            go.provide(program)
        begin = time.monotonic()
        self.ground = Ground()
        self._ends: list[Callable[[], None]] = []
        try:
            self.folder = self.ground.folder
            self.keys = rig_keys.make(self.folder / "keys")
            self.issuer = Issuer(free_port())
            self._ends.append(self.issuer.close)
            self._start()
        except BaseException:
            self.stop()
            raise
        self.seconds = time.monotonic() - begin

    def stop(self) -> None:
        """End everything."""
        for end in reversed(self._ends):
            end()
        self._ends.clear()
        self.ground.clear()

    # -- what tests ask for ------------------------------------------------------------------------------------------

    @property
    def fulcio(self) -> str:
        return f"http://127.0.0.1:{self._fulcio}"

    @property
    def rekor1(self) -> str:
        return f"http://127.0.0.1:{self._rekor1}"

    @property
    def rekor2(self) -> str:
        return f"http://127.0.0.1:{self._rekor2}"

    @property
    def rekor2_tiles(self) -> str:
        """Where the tiles of Rekor v2 are read."""
        return f"http://127.0.0.1:{self._tiles}"

    @property
    def timestamps(self) -> str:
        return f"http://127.0.0.1:{self._tsa}/api/v1/timestamp"

    @property
    def trusted_root(self) -> bytes:
        """The trusted root of all services; both logs stand under one host name, on different ports."""
        fulcio = {
            "subject": {"organization": "rig", "commonName": "rig fulcio"},
            "uri": self.fulcio,
            "certChain": {"certificates": _chain(self.keys.fulcio_pem)},
            "validFor": {"start": START},
        }
        stamps = {
            "subject": {"organization": "rig", "commonName": "rig tsa root"},
            "uri": self.timestamps,
            "certChain": {"certificates": _chain(self.keys.tsa_pem)},
            "validFor": {"start": START},
        }
        return trusted_root.write(
            [_log(self._rekor1, self.keys.rekor1_pub), _log(self._rekor2, self.keys.rekor2_pub)],
            authorities=[fulcio],
            certificate_logs=[_log(self._ct, self.keys.ct_pub)],
            timestamp_authorities=[stamps],
        )

    # -- how ---------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._ct, self._fulcio, self._tsa, self._rekor1, self._rekor2, self._tiles, trillian = (
            free_port() for _ in range(7)
        )
        started = [
            (self._run_ct(), lambda: _answers(self._ct, "/ct/v1/get-roots")),
            (self._run_tsa(), lambda: _answers(self._tsa, "/ping")),
            (self._run_trillian(trillian), lambda: _connects(trillian)),
            (self._run_rekor2(), lambda: _answers(self._rekor2, "/healthz")),
        ]
        self._serve_tiles()
        for process, ready in started:
            self._await(process, ready)
        # Behind what they ask first: fulcio its log, Rekor v1 its tree.
        started = [
            (self._run_fulcio(), lambda: _answers(self._fulcio, "/api/v2/configuration")),
            (self._run_rekor1(trillian), lambda: _answers(self._rekor1, "/ping")),
        ]
        for process, ready in started:
            self._await(process, ready)

    def _await(self, process: Process, ready: Callable[[], bool]) -> None:
        def probe() -> bool:
            process.check()
            return ready()

        wait(f"{process.name} ready", probe, 30.0, hint=process.tail)

    def _process(self, program: go.Program, *flags: str) -> Process:
        process = self.ground.process(program.name, str(go.provide(program)), *flags)
        process.start()
        return process

    def _run_ct(self) -> Process:
        return self._process(
            programs.TESSERACT,
            f"--http_endpoint=127.0.0.1:{self._ct}",
            f"--private_key={self.keys.ct_key}",
            "--origin=localhost",
            f"--storage_dir={self._data('ct')}",
            f"--roots_pem_file={self.keys.fulcio_pem}",
            "--ext_key_usages=CodeSigning",
            "--batch_max_age=20ms",
            "--checkpoint_interval=100ms",
            "--enable_publication_awaiter=false",
        )

    def _run_tsa(self) -> Process:
        flags = (f"--port={self._tsa}", f"--key={self.keys.tsa_key}", f"--chain={self.keys.tsa_pem}")
        return self._process(programs.TSAD, *flags)

    def _run_trillian(self, port: int) -> Process:
        return self._process(programs.TRILLIAN, f"--rpc_endpoint=127.0.0.1:{port}")

    def _run_rekor2(self) -> Process:
        return self._process(
            programs.REKOR_TILES,
            "serve",
            "--http-address=127.0.0.1",
            f"--http-port={self._rekor2}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={free_port()}",
            f"--http-metrics-port={free_port()}",
            "--hostname=localhost",
            f"--storage-dir={self._data('rekor2')}",
            f"--signer-filepath={self.keys.rekor2_key}",
            "--batch-max-age=20ms",
            "--checkpoint-interval=100ms",
            "--tlog-timeout=2s",
            "--persistent-antispam",
        )

    def _run_rekor1(self, trillian: int) -> Process:
        return self._process(
            programs.REKOR,
            "serve",
            "--rekor_server.address=127.0.0.1",
            f"--port={self._rekor1}",
            "--rekor_server.hostname=localhost",
            "--trillian_log_server.address=127.0.0.1",
            f"--trillian_log_server.port={trillian}",
            f"--rekor_server.signer={self.keys.rekor1_key}",
            "--log_type=prod",
            "--enable_retrieve_api=false",
            "--enabled_api_endpoints=getLogInfo,getPublicKey,getLogProof,createLogEntry,getLogEntryByIndex,"
            "getLogEntryByUUID,searchLogQuery",
        )

    def _run_fulcio(self) -> Process:
        config = self.folder / "fulcio.yaml"
        issuer = {"issuer-url": self.issuer.url, "client-id": "sigstore", "type": "kubernetes"}
        config.write_text(yaml.safe_dump({"oidc-issuers": {self.issuer.url: issuer}}))
        return self._process(
            programs.FULCIO,
            "serve",
            "--host=127.0.0.1",
            f"--port={self._fulcio}",
            "--grpc-host=127.0.0.1",
            f"--grpc-port={free_port()}",
            f"--metrics-port={free_port()}",
            f"--legacy-unix-domain-socket={self.folder / 'fulcio.sock'}",
            "--ca=fileca",
            f"--fileca-cert={self.keys.fulcio_pem}",
            f"--fileca-key={self.keys.fulcio_key}",
            f"--fileca-key-passwd={rig_keys.PASSWORD}",
            "--fileca-watch=false",
            f"--config-path={config}",
            f"--ct-log-url=http://127.0.0.1:{self._ct}",
            f"--ct-log-public-key-path={self.keys.ct_pub}",
            "--ct-log-origin=localhost",
            "--log_type=prod",
        )

    def _serve_tiles(self) -> None:
        served = self.folder / "rekor2-www"
        (served / "api").mkdir(parents=True)
        (served / "api" / "v2").symlink_to(self._data("rekor2"))
        server = ThreadingHTTPServer(("127.0.0.1", self._tiles), functools.partial(_Quiet, directory=str(served)))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self._ends.append(end)

    def _data(self, name: str) -> Path:
        path = self.folder / "data" / name
        path.mkdir(parents=True, exist_ok=True)
        return path


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - as the base has it
        """Say nothing."""


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _chain(path: Path) -> list[dict[str, str]]:
    found = x509.load_pem_x509_certificates(path.read_bytes())
    return [{"rawBytes": _b64(one.public_bytes(serialization.Encoding.DER))} for one in found]


def _log(port: int, public: Path) -> dict[str, Any]:
    key = serialization.load_pem_public_key(public.read_bytes())
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {
        "baseUrl": f"http://localhost:{port}",
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": _b64(spki),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": {"start": START},
        },
        "logId": {"keyId": _b64(note.log_id(spki))},
    }


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()
