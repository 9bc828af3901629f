"""The verification kit: a folder with one event's evidence that a stranger checks with stock tools, offline."""

from pathlib import Path
from typing import Final

import msgspec

from ugallu.evidence import keys, statement
from ugallu.evidence.ports import PublicKey

BUNDLE_SUFFIX: Final = ".sigstore.json"
SPEC_SUFFIX: Final = ".spec.json"
KEY_FILE: Final = "ugallu.pub"
ROOT_FILE: Final = "trusted-root.json"


class Kit(msgspec.Struct, frozen=True):
    """What a stranger needs: the bundle, the bytes it attests, the signer's key and the trusted root."""

    name: str
    bundle: bytes
    spec: bytes
    key: PublicKey
    trusted_root: bytes
    predicate_type: str = statement.EVENT_PREDICATE


def cosign_line(name: str, predicate_type: str = statement.EVENT_PREDICATE) -> str:
    """Return the command that verifies the kit with stock cosign 3, to be run inside its folder."""
    return (
        f"cosign verify-blob-attestation --bundle {name}{BUNDLE_SUFFIX} --key {KEY_FILE} "
        f"--trusted-root {ROOT_FILE} --type {predicate_type} {name}{SPEC_SUFFIX}"
    )


def export(kit: Kit, folder: Path) -> list[Path]:
    """Write the kit into the folder, which may exist, and return what was written; file names are relative in it."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        f"{kit.name}{BUNDLE_SUFFIX}": kit.bundle,
        f"{kit.name}{SPEC_SUFFIX}": kit.spec,
        KEY_FILE: keys.to_pem(kit.key),
        ROOT_FILE: kit.trusted_root,
        "README.txt": _readme(kit).encode(),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def _readme(kit: Kit) -> str:
    return f"""\
Evidence of the security event {kit.name}

  {kit.name}{SPEC_SUFFIX}      the event, as canonical JSON (RFC 8785): these bytes are attested
  {kit.name}{BUNDLE_SUFFIX}  who attested them, the signature, and the proof that it was logged (Sigstore bundle v0.3)
  {KEY_FILE}     the key of the attestor; ask its owner for the fingerprint {kit.key.key_id}
  {ROOT_FILE}   the key of the transparency log, as verifiers read it

Check it, without any network, with cosign 3.1 or newer (https://github.com/sigstore/cosign):

  {cosign_line(kit.name, kit.predicate_type)}

or with ugallu:

  ugallu verify {kit.name}{BUNDLE_SUFFIX} --subject {kit.name}{SPEC_SUFFIX} --key {KEY_FILE} --trusted-root {ROOT_FILE}

Either must end with exit status 0. The key and the trusted root come with the evidence: whoever could forge one could
forge all. Compare them once with copies that you got from the owner by another way.
"""
