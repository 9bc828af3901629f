"""A desk whose attestor signs without a key of its own, with services in memory."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ugallu.evidence import trusted_root
from ugallu.evidence.authority import TimestampService
from ugallu.evidence.logs.rekor_v1 import RekorV1
from ugallu.evidence.logs.witness import Witness
from ugallu.evidence.ports import Leg
from ugallu.evidence.signers.fulcio import FulcioSigner
from ugallu.evidence.signers.token import TokenFile
from ugallu.evidence.trusted_root import LogKey, TrustedRoot
from ugallu.runtime.attestor.choose import Known, Ports
from ugallu.testing.sealing import Desk
from ugallu.testing.sigstore import FakeRekor, FakeSigstore, token


def use_keyless(
    at: Desk, services: FakeSigstore, folder: Path, *, rekor: FakeRekor | None = None, trusted: Sequence[LogKey] = ()
) -> Ports:
    """Let the attestor sign with these services and log to `rekor`; logs in `trusted` count as well."""
    (folder / "oidc").write_text(token())
    rekor = rekor or services.rekor
    root = trusted_root.read(services.trusted_root)
    logs = {log.log_id: log for log in (*trusted, services.rekor.log, rekor.log)}
    root = msgspec.structs.replace(root, logs=logs)
    return use(
        at,
        dataclasses.replace(
            at.reseal.stages.ports,
            legs=(Leg("primary", FulcioSigner(services.fulcio, TokenFile(folder / "oidc"), root, at.clock)),),
            log=RekorV1(rekor, rekor.log, Witness(rekor.log), at.clock),
            authority=TimestampService(services.authority, root.timestamp_authorities, at.clock),
        ),
        root,
    )


def use(at: Desk, ports: Ports, root: TrustedRoot | None = None) -> Ports:
    """Let the attestor work with these ports from now on."""
    if root is not None:
        known = Known(root, ports.retention)
        ports = dataclasses.replace(ports, known=lambda: known)
    stages = at.reseal.stages
    stages.ports, stages.log, stages.store = ports, ports.log, ports.store
    at.enqueue._ports = ports  # noqa: SLF001 - nobody but a test exchanges ports
    return ports
