"""Whether an exported folder proves what it says: every fact by its bundles, every blob by the fact that names it.

Pure but for the reading of files. Whose signatures count and which logs is the reader's to say; without that the keys
of the folder itself are taken, which proves that it is whole, and not who made it.
"""

import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

import msgspec

from ugallu.api.bundle import AttestationBundle
from ugallu.api.event import EvidenceRef, SecurityEvent, SecurityEventSpec
from ugallu.api.meta import Metadata
from ugallu.api.response import EventResponse, EventResponseSpec
from ugallu.errors import PermanentError
from ugallu.evidence import bundle as bundles
from ugallu.evidence import copies, custody, folder, keys, statement, trusted_root
from ugallu.evidence.canonical import canonical, digest
from ugallu.evidence.encoding import refuse_doubles
from ugallu.evidence.folder import Blob, Fact, File, Finding, Manifest, Said
from ugallu.evidence.ports import LogEntry
from ugallu.evidence.trust import Trust, holds
from ugallu.evidence.verify import POLICY, Policy, Report
from ugallu.evidence.x509 import Identity

FORENSICS: Final = "application/vnd.ugallu.forensics.manifest+json"
"""A list of captures, which binds them as it is bound itself."""
MAX_CHUNKS: Final = 10_000

FACTS: Final[dict[str, tuple[type[SecurityEvent | EventResponse], str]]] = {
    SecurityEvent.kind_info.name: (SecurityEvent, statement.EVENT_PREDICATE),
    EventResponse.kind_info.name: (EventResponse, statement.RESPONSE_PREDICATE),
}
"""What is attested, and as what."""

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


class Proof(msgspec.Struct, frozen=True):
    """A fact that is proven: by whose bundles, and what it says."""

    fact: Fact
    spec: SecurityEventSpec | EventResponseSpec
    reports: tuple[Report, ...]


class Judgement(msgspec.Struct, frozen=True):
    """What a folder is worth."""

    manifest: Manifest
    digest: str
    """Of the manifest: with this the whole folder is pinned."""
    findings: tuple[Finding, ...]
    proofs: tuple[Proof, ...] = ()
    blobs: int = 0
    """Blobs that are in here and bound by a fact."""

    @property
    def ok(self) -> bool:
        """Whether everything in the folder is as it was exported, and proven."""
        return not any(finding.faulty for finding in self.findings)


class _Chunk(msgspec.Struct, frozen=True, rename="camel"):
    """A line of a forensics manifest."""

    url: str
    media_type: str = ""
    sha256: str = ""
    size: int = 0


class _Chunks(msgspec.Struct, frozen=True, rename="camel"):
    chunks: tuple[_Chunk, ...] = ()


class _Object(msgspec.Struct, frozen=True):
    kind: str
    metadata: Metadata
    spec: Any


def trust_of(root: Path, manifest: Manifest, policy: Policy = POLICY) -> Trust:
    """Return what the folder itself says is to be trusted; raises `PermanentError` where it cannot be read."""
    files = {file.path: file for file in manifest.files}
    known = [keys.from_pem(folder.checked(root, files[key.path]), where=key.path) for key in manifest.keys]
    named = [Identity(name.identity, name.issuer) for name in manifest.names]
    return Trust(trusted_root.read(folder.checked(root, files[manifest.trusted_root])), (*known, *named), policy)


def judge(root: Path, manifest: Manifest, content: bytes, trust: Trust | PermanentError) -> Judgement:
    """Compare a folder with its manifest, whose bytes are `content`, and verify all that it says.

    `trust` may be why there is none; then nothing is proven.
    """
    findings = folder.compare(manifest, content, folder.scan(root))
    if isinstance(trust, PermanentError):
        findings.append(Finding(Said.UNPROVEN, manifest.trusted_root, str(trust)))
        return Judgement(manifest, digest(content), tuple(findings))
    look = _Look(root, manifest, trust, {finding.what for finding in findings})
    findings += look.facts()
    findings += look.blobs()
    findings += look.custody()
    findings += look.links()
    return Judgement(manifest, digest(content), tuple(sorted(set(findings))), tuple(look.proofs), look.bound)


def attested(proof: Proof) -> Iterator[EvidenceRef]:
    """Yield the blobs that a proven fact names in what was signed of it."""
    if isinstance(proof.spec, SecurityEventSpec):
        yield from proof.spec.evidence
        return
    signed = proof.reports[0].statement
    assert signed is not None
    try:
        yield from msgspec.convert(signed.predicate.get("evidence") or (), tuple[EvidenceRef, ...])
    except msgspec.ValidationError as error:
        raise PermanentError(str(error), where=f"{proof.fact.kind}/{proof.fact.name}") from error


def chunks(content: bytes) -> tuple[EvidenceRef, ...]:
    """Return the blobs that a forensics manifest lists; raises `PermanentError` for what is none."""
    refuse_doubles(content, "forensics manifest")
    try:
        found = msgspec.json.decode(content, type=_Chunks).chunks
    except (ValueError, RecursionError) as error:
        raise PermanentError(str(error), where="forensics manifest") from error
    if len(found) > MAX_CHUNKS:
        raise PermanentError(f"more than {MAX_CHUNKS} chunks", where="forensics manifest")
    return tuple(EvidenceRef(media_type=c.media_type, url=c.url, sha256=c.sha256, size=c.size) for c in found)


def prove(kind: str, name: str, uid: str, spec: bytes, reports: Sequence[Report]) -> None:
    """Raise `PermanentError` unless these reports of bundles prove the object with this name and uid, spec and all."""
    _, predicate = FACTS[kind]
    for report in reports:
        if not report.ok or report.statement is None:
            raise PermanentError(report.reason or "no statement")
        if report.statement.predicate_type != predicate or not statement.concerns(report.statement, uid, spec):
            raise PermanentError("the evidence is that of another object, or of this one as it was not")
        wanted = statement.subject_of(f"{kind}/{name}@{SecurityEvent.kind_info.version}", spec)
        if wanted not in report.statement.subject:
            raise PermanentError("the evidence is about an object of another name")
    if not holds(reports, require_all=True):
        raise PermanentError("its bundles are about different statements")


class _Look:
    """One look at a folder."""

    def __init__(self, root: Path, manifest: Manifest, trust: Trust, bad: AbstractSet[str]) -> None:
        """`bad` are paths whose files are not what the manifest names."""
        self.proofs: list[Proof] = []
        self.bound = 0
        self._root = root
        self._manifest = manifest
        self._trust = trust
        self._bad = bad
        self._files: dict[str, File] = {file.path: file for file in manifest.files}
        self._bundles: dict[str, tuple[LogEntry, Report]] = {}
        self._lists: dict[str, set[copies.Entry]] = {}
        self._steps: set[custody.Step] = set()

    def facts(self) -> Iterator[Finding]:
        """Verify every fact; where there is none, nothing is proven."""
        if not self._manifest.facts:
            yield Finding(Said.UNPROVEN, folder.MANIFEST, "there is no fact in it")
        for fact in self._manifest.facts:
            try:
                self.proofs.append(self._proof(fact))
            except PermanentError as error:
                yield Finding(Said.UNPROVEN, f"{fact.kind}/{fact.name}", _why(error))

    def blobs(self) -> Iterator[Finding]:
        """Hold every blob to the digest under which a proven fact, or a blob that one names, has it."""
        listed = {(blob.url, blob.sha256): blob for blob in self._manifest.blobs}
        waiting: list[tuple[EvidenceRef, str]] = []
        for proof in self.proofs:
            who = f"{proof.fact.kind}/{proof.fact.name}"
            try:
                waiting += [(ref, who) for ref in attested(proof)]
            except PermanentError as error:
                yield Finding(Said.UNPROVEN, who, f"what it names cannot be read: {error.what}")
        named: set[tuple[str, str]] = set()
        while waiting:
            ref, by = waiting.pop()
            if (ref.url, ref.sha256) in named:
                continue
            named.add((ref.url, ref.sha256))
            blob = listed.get((ref.url, ref.sha256))
            if blob is None:
                yield Finding(Said.MISSING, custody.place(ref.url), f"{by} names it, and the manifest does not")
                continue
            finding, inner = self._blob(blob)
            if finding is not None:
                yield finding
            waiting += [(chunk, custody.place(blob.url)) for chunk in inner]
        for key, blob in listed.items():
            if key not in named:
                yield Finding(Said.UNPROVEN, custody.place(blob.url), "no proven fact names it")

    def custody(self) -> Iterator[Finding]:
        """Make the proven steps anew, and compare."""
        path = self._manifest.custody
        try:
            said = {step for step in custody.read(folder.checked(self._root, self._files[path])) if step.proven}
        except PermanentError as error:
            yield Finding(Said.UNPROVEN, path, _why(error))
            return
        doubtful = {fact.uid for fact in self._manifest.facts} - {proof.fact.uid for proof in self.proofs}
        for step in sorted(self._steps - said):
            yield Finding(Said.MISSING, path, f"{step.what} at {step.at or 'no known time'}, of {step.of}")
        for step in sorted(said - self._steps):
            # Of a fact that is not proven nothing is, and that was said.
            if step.of not in doubtful:
                yield Finding(Said.UNPROVEN, path, f"{step.what} at {step.at or 'no known time'}, of {step.of}")

    def links(self) -> Iterator[Finding]:
        """Note who is named here and is not in here: an incident may have more to it."""
        here = {fact.uid for fact in self._manifest.facts} | {fact.name for fact in self._manifest.facts}
        for proof in self.proofs:
            spec = proof.spec
            if isinstance(spec, SecurityEventSpec):
                named = [(ref.uid, ref.name, "caused by") for ref in spec.parents if ref.kind in FACTS]
            else:
                ref = spec.security_event_ref
                named = [(ref.uid, ref.name, "answers")]
            for uid, name, how in named:
                if uid not in here if uid else name not in here:
                    yield Finding(
                        Said.NOTE, f"{proof.fact.kind}/{proof.fact.name}", f"{how} {name}, which is not in here"
                    )

    def _proof(self, fact: Fact) -> Proof:
        if fact.gap:
            raise PermanentError(fact.gap)
        if fact.kind not in FACTS:
            raise PermanentError(f"a {fact.kind[:80]} is not attested")
        kind, _ = FACTS[fact.kind]
        content = self._read(fact.spec)
        legs = [self._bundle(path) for path in fact.bundles]
        reports = tuple(report for _, report in legs)
        prove(fact.kind, fact.name, fact.uid, content, reports)
        found = self._object(fact, kind, content)
        if fact.attestation:
            self._attestation(fact)
        if fact.archived:
            self._listed(fact)
        self._steps.update(custody.proven(fact.uid, found, legs, self._trust.root))
        return Proof(fact, found.spec, reports)

    def _bundle(self, path: str) -> tuple[LogEntry, Report]:
        """Return the entry of a bundle and what is to be said of it; many facts may share one."""
        if path not in self._bundles:
            content = self._read(path)
            report = self._trust.check(content)
            if not report.ok:
                raise PermanentError(report.reason, where=path)
            self._bundles[path] = bundles.read(content).entries[0], report
        return self._bundles[path]

    def _object(
        self, fact: Fact, kind: type[SecurityEvent | EventResponse], spec: bytes
    ) -> SecurityEvent | EventResponse:
        """Return the object, which must be the one that is proven: whoever reads it must not be told another story."""
        content = self._read(fact.object)
        refuse_doubles(content, fact.object)
        try:
            shown = msgspec.json.decode(content, type=_Object)
            found = msgspec.json.decode(content, type=kind)
        except (ValueError, RecursionError) as error:
            raise PermanentError(str(error), where=fact.object) from error
        if (shown.kind, found.metadata.name, found.metadata.uid) != (fact.kind, fact.name, fact.uid):
            raise PermanentError("is another object", where=fact.object)
        if canonical(found.spec) != spec:
            raise PermanentError("says something else than what is attested", where=fact.object)
        return found

    def _attestation(self, fact: Fact) -> None:
        """Hold the object that tells of the sealing to what was sealed."""
        content = self._read(fact.attestation)
        refuse_doubles(content, fact.attestation)
        try:
            told = msgspec.json.decode(content, type=AttestationBundle)
        except (ValueError, RecursionError) as error:
            raise PermanentError(str(error), where=fact.attestation) from error
        status = told.status
        legs = {leg.sha256 for leg in status.bundles} | {ref.sha256 for ref in (status.worm_ref,) if ref is not None}
        subject = "" if status.subject_ref is None else status.subject_ref.sha256
        named = told.spec.attested_for.uid, subject, legs
        if named != (fact.uid, self._files[fact.spec].sha256, {self._files[path].sha256 for path in fact.bundles}):
            raise PermanentError("tells of other evidence than this", where=fact.attestation)

    def _listed(self, fact: Fact) -> None:
        """Hold a copy to the list in which it stands."""
        if not fact.listed:
            raise PermanentError("no list names the copy that it was read from")
        path = fact.listed
        if path not in self._lists:
            self._lists[path] = set(copies.read(self._read(path), path).entries)
        sha256 = self._files[fact.object].sha256
        wanted = copies.Entry(key=fact.archived, sha256=sha256, kind=fact.kind, name=fact.name, uid=fact.uid)
        if wanted not in self._lists[path]:
            raise PermanentError("names another copy than this", where=path)

    def _blob(self, blob: Blob) -> tuple[Finding | None, tuple[EvidenceRef, ...]]:
        what = custody.place(blob.url)
        if blob.left_out:
            return Finding(
                Said.NOTE, what, f"left out: {blob.left_out}; it is {blob.sha256 or 'named without a digest'}"
            ), ()
        if blob.gap:
            return Finding(Said.UNPROVEN, what, blob.gap), ()
        if not _SHA256.fullmatch(blob.sha256):
            return Finding(Said.UNPROVEN, what, "it is named without a digest"), ()
        if not blob.path or self._files[blob.path].sha256 != blob.sha256:
            return Finding(Said.CHANGED, blob.path or what, f"a fact names {blob.sha256}"), ()
        if blob.path in self._bad:
            return None, ()  # told already
        self.bound += 1
        if blob.media_type != FORENSICS:
            return None, ()
        try:
            return None, chunks(self._read(blob.path))
        except PermanentError as error:
            return Finding(Said.UNPROVEN, blob.path, _why(error)), ()

    def _read(self, path: str) -> bytes:
        return folder.checked(self._root, self._files[path])


def _why(error: PermanentError) -> str:
    return f"{error.where}: {error.what}" if error.where else error.what
