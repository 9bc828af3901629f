"""What an exported folder tells its reader: what is in it, and which stock command verifies which file. Pure."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from ugallu.api.event import SecurityEvent
from ugallu.api.response import EventResponse
from ugallu.evidence import statement
from ugallu.evidence.folder import MANIFEST, SUMS, Manifest
from ugallu.evidence.incident import FACTS
from ugallu.evidence.ports import PublicKey
from ugallu.evidence.verify import Report
from ugallu.evidence.x509 import Identity

SHOWN: Final = 200
"""Facts in the table of the README; `COMMANDS.txt` has them all."""


class Line(msgspec.Struct, frozen=True, order=True):
    """One bundle of one fact."""

    at: str
    kind: str
    name: str
    bundle: str
    spec: str
    about: tuple[str, ...]
    """Severity, type and subject of an event; phase, action and target of a response."""
    key: str = ""
    """Id of the key that signed; empty for a certificate."""
    identity: str = ""
    issuer: str = ""


def line(fact: SecurityEvent | EventResponse, bundle: str, spec: str, report: Report) -> Line:
    """Return the line of one bundle."""
    who = report.signer
    key = who.key_id if isinstance(who, PublicKey) else ""
    identity, issuer = (who.name, who.issuer) if isinstance(who, Identity) else ("", "")
    about: tuple[str, ...]
    if isinstance(fact, SecurityEvent):
        at, subject = statement.micro(fact.spec.detected_at), fact.spec.subject
        place = f"{subject.namespace}/" if subject.namespace else ""
        about = fact.spec.severity.value, fact.spec.type, f"{subject.kind} {place}{subject.name}"
    else:
        done, target = fact.status, fact.spec.action.target_ref
        begun = done.started_at or done.completed_at or fact.metadata.creation_timestamp
        at = "" if begun is None else statement.micro(begun)
        phase = done.phase.value if done.phase else ""
        about = phase, fact.spec.action.type.value, "" if target is None else f"{target.kind} {target.name}"
    return Line(at, fact.kind_info.name, fact.metadata.name, bundle, spec, about, key, identity, issuer)


def cosign(one: Line, root: str, keys: Mapping[PublicKey, str]) -> str:
    """Return the command that verifies a bundle with stock cosign 3, to be run inside the folder."""
    if one.key:
        path = next(path for key, path in keys.items() if key.key_id == one.key)
        who = ["--key", path]
    else:
        who = ["--certificate-identity", one.identity, "--certificate-oidc-issuer", one.issuer]
    words = ["cosign", "verify-blob-attestation", "--bundle", one.bundle, *who, "--trusted-root", root]
    return shlex.join([*words, "--type", FACTS[one.kind][1], one.spec])


def commands(lines: Sequence[Line], root: str, keys: Mapping[PublicKey, str]) -> bytes:
    """Return every command, a line each: `sh -e COMMANDS.txt` verifies all."""
    every = [f"sha256sum --check --quiet {SUMS}", *(cosign(one, root, keys) for one in lines)]
    return "".join(f"{command}\n" for command in every).encode()


def readme(manifest: Manifest, lines: Sequence[Line], root: str, keys: Mapping[PublicKey, str]) -> bytes:
    """Return the README, in Markdown."""
    parts = [_HEAD.format(by=_cell(manifest.made_by), at=manifest.made_at, who=_who(manifest), manifest=MANIFEST)]
    parts.append(_table(lines))
    gaps = [f"- {fact.kind}/{fact.name}: {_cell(fact.gap)}" for fact in manifest.facts if fact.gap]
    gaps += [f"- {_cell(blob.url)}: {_cell(blob.gap)}" for blob in manifest.blobs if blob.gap]
    if gaps:
        parts.append("## Not proven in here\n\n" + "\n".join(gaps) + "\n")
    left = [f"- {_cell(blob.url)}, {blob.sha256}: {blob.left_out}" for blob in manifest.blobs if blob.left_out]
    if left:
        parts.append("## Left out\n\nWhoever has such a file can check it by its digest.\n\n" + "\n".join(left) + "\n")
    first = {one.kind: one for one in reversed(lines)}
    stock = "\n".join(f"    {cosign(one, root, keys)}" for one in first.values())
    signers = [f"- key `{key.key_id}`, in `{path}`" for key, path in keys.items()]
    signers += [f"- `{name.identity}`, for whom `{name.issuer}` vouches" for name in manifest.names]
    parts.append(_CHECK.format(sums=SUMS, stock=stock or "    (nothing is proven in here)", signers="\n".join(signers)))
    parts.append(_FILES.format(manifest=MANIFEST, sums=SUMS, root=root, custody=manifest.custody))
    return "\n".join(parts).encode()


def _who(manifest: Manifest) -> str:
    where = manifest.cluster_name or manifest.cluster_id
    by = f" for {_cell(manifest.exported_by)}" if manifest.exported_by else ""
    return f"{by}{f', from cluster {_cell(where)}' if where else ''}"


def _table(lines: Sequence[Line]) -> str:
    rows = ["| When | | What | About | Name | Proof | Attested bytes |", "|---|---|---|---|---|---|---|"]
    for one in lines[:SHOWN]:
        level, what, about = one.about
        cells = (one.at, level, what, about, one.name, f"`{one.bundle}`", f"`{one.spec}`")
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    more = f"\n{len(lines) - SHOWN:,} more are in `{MANIFEST}`.\n" if len(lines) > SHOWN else ""
    return "\n".join(rows) + "\n" + more


def _cell(text: str) -> str:
    """Return text as a cell of a table: one line, nothing that Markdown or a terminal would obey."""
    plain = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    return plain.replace("|", "\\|").replace("<", "&lt;")


_HEAD: Final = """\
# Evidence

Exported by {by} at {at}{who}.

Everything in this folder is bound by `{manifest}`. Each line below is proven by files of its own, so any of them can be
handed on alone, together with the trusted root and what says whose signature it is.
"""

_CHECK: Final = """\
## How to check it

All at once, offline (`pip install ugallu`); it says what is missing, changed or not proven, and ends with status 1:

    ugallu verify .

That the files are those that were exported, with what every system has:

    sha256sum --check {sums}

Each fact, offline, with [cosign](https://github.com/sigstore/cosign) 3.1 or newer. `COMMANDS.txt` has the command for
every one; `sh -e COMMANDS.txt` runs them all. The first of each kind:

{stock}

Bundles with certificates are also read by [sigstore-python](https://github.com/sigstore/sigstore-python), bundles of
both kinds by [@sigstore/verify](https://github.com/sigstore/sigstore-js).

Signed by:

{signers}

Keys, names and trusted root come with the evidence: whoever could forge one could forge all. Compare them once with
copies that you got from the owner by another way. The owner can also tell you the digest of the manifest, which pins
the whole folder: `ugallu verify . --manifest sha256:...`.
"""

_FILES: Final = """\
## What is what

| File | What |
|---|---|
| `events/NAME.spec.json` | the event, as canonical JSON (RFC 8785): these bytes are attested |
| `events/NAME.sigstore.json` | who attested them, signature, and proof that it was logged (Sigstore bundle v0.3) |
| `shared/*.sigstore.json` | the same for events that were sealed together: each is a subject of that one statement |
| `events/NAME.json` | the whole object. Its `spec` is what is attested; labels and status are what the cluster said |
| `events/NAME.attestation.json` | how it was sealed, tries that failed included, as the cluster said |
| `responses/` | the same of what was done about the events; what came of it is in the signed statement |
| `archive/` | ttl's lists of copies: an event that was collected was copied, and listed, before it was deleted |
| `blobs/` | snapshots and lists that events and responses name, under their SHA-256 |
| `{custody}` | what was done with each fact, when and by whom; `proven` is what a signature in here says |
| `{root}` | the logs and authorities that are believed (Sigstore trusted root) |
| `{manifest}`, `{sums}` | all files with their digests, all facts with the files that prove them |
"""
