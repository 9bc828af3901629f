"""Writes an exported folder: evidence is read from wherever it lies, verified, and put down with what it needs.

Nothing goes in as proof that does not verify. What could not be had is a gap with its reason: a responder takes the
rest and knows what is missing.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import anyio
import msgspec

from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.event import ClusterIdentity, EvidenceRef, SecurityEvent
from ugallu.api.response import EventResponse
from ugallu.errors import PermanentError, RefusedError, TransientError
from ugallu.evidence import bundle as bundles
from ugallu.evidence import custody, guide, incident, keys, statement
from ugallu.evidence.canonical import canonical, digest
from ugallu.evidence.folder import MAX_FILE, SCHEMA, Asked, Blob, Fact, Key, Manifest, Name, Writer
from ugallu.evidence.ports import IntegrityError, LogEntry, PublicKey, Stored
from ugallu.evidence.seal import shared_name
from ugallu.evidence.trust import Trust
from ugallu.evidence.verify import Report
from ugallu.evidence.x509 import Identity

ROOT_PATH: Final = "trusted-root.json"
CUSTODY_PATH: Final = "custody.json"
README_PATH: Final = "README.md"
COMMANDS_PATH: Final = "COMMANDS.txt"
KEY_PATH: Final = "ugallu.pub"
"""The one key that signed everything here; of several each has its own in `keys/`."""
BUNDLE_SUFFIX: Final = ".sigstore.json"
_FOLDERS: Final = {SecurityEvent.kind_info.name: "events", EventResponse.kind_info.name: "responses"}
_LONGEST: Final = 150
_DIRECTORY = re.compile(rb'file://[^"\s]*?/objects/')
_ASK: Final = "keep the store as it is and find out who changed it"
_SUFFIXES: Final = {
    "application/x-tar+gzip": ".tar.gz",
    "application/json": ".json",
    incident.FORENSICS: ".json",
    "application/jsonl": ".jsonl",
    "application/vnd.k8s.cr+yaml": ".yaml",
}

Read = Callable[[str, int], Awaitable[tuple[Stored, bytes]]]
"""Reads what lies at a URL of the evidence store, so many bytes at most."""


class TooLargeError(PermanentError):
    """There is more than was wanted."""


class UnsealedError(TransientError):
    """There is no evidence of it yet."""


class Found(msgspec.Struct, frozen=True):
    """A fact as it was found: the object, all of it as JSON, and the bundle that says where its evidence lies."""

    fact: SecurityEvent | EventResponse
    whole: bytes
    bundle: AttestationBundle | None = None
    bundle_whole: bytes = b""
    archived: str = ""
    """Key of the copy in the archive, where the cluster has the object no more."""
    listing: tuple[str, bytes] = ("", b"")
    """Name and content of the list that names the copy."""

    @property
    def name(self) -> str:
        """`Kind/name`."""
        return f"{self.fact.kind_info.name}/{self.fact.metadata.name}"


class About(msgspec.Struct, frozen=True):
    """What an export says of itself."""

    made_by: str
    made_at: str
    exported_by: str
    asked: Asked


class _Bundle(NamedTuple):
    """A bundle that holds, and where it goes."""

    path: str
    stored: Stored
    content: bytes
    report: Report
    entry: LogEntry


class Exporter:
    """Fills one folder."""

    def __init__(self, out: Writer, read: Read, trust: Trust, root: bytes, *, most: int) -> None:
        """`root` are the bytes of the trusted root; blobs above `most` bytes are left out."""
        self._out = out
        self._read = read
        # A key is named by itself, whoever holds it: what reads the folder has the key alone.
        signers = [keys.from_spki(who.spki) if isinstance(who, PublicKey) else who for who in trust.signers]
        self._trust = msgspec.structs.replace(trust, signers=tuple(signers))
        self._root = root
        self._most = most
        self._cluster = ClusterIdentity()
        self._facts: list[tuple[str, Fact]] = []
        self._blobs: dict[tuple[str, str], Blob] = {}
        self._steps: list[custody.Step] = []
        self._signers: dict[PublicKey | Identity, None] = {}
        self._bundles: dict[str, _Bundle] = {}
        self._stems: dict[str, str] = {}
        self._large = anyio.Lock()
        self._proven: list[guide.Line] = []
        self.example = ""
        """A command of stock cosign that verifies something in the folder, once that is finished."""

    @property
    def gaps(self) -> list[str]:
        """What could not be had, a line each."""
        facts = [f"{fact.kind}/{fact.name}: {fact.gap}" for _, fact in self._facts if fact.gap]
        return facts + [f"{custody.place(blob.url)}: {blob.gap}" for blob in self._blobs.values() if blob.gap]

    async def add(self, found: Found, *, strict: bool = False) -> None:
        """Add a fact with its proof, and what it names; what keeps it from being proven is a gap, or raised.

        Raises in any case `TransientError` and `RefusedError` of a store that does not answer.
        """
        kind, meta = found.fact.kind_info.name, found.fact.metadata
        if isinstance(found.fact, SecurityEvent):
            self._cluster = found.fact.spec.cluster_identity
        stem = f"{_FOLDERS[kind]}/{stem_of(meta.name)}"
        if self._stems.setdefault(stem, meta.uid) != meta.uid:
            # A name that went to another object after this one was collected.
            stem = f"{stem}-{hashlib.sha256(meta.uid.encode()).hexdigest()[:8]}"
        fact = Fact(kind=kind, name=meta.name, uid=meta.uid, object=f"{stem}.json", archived=found.archived)
        self._out.add(fact.object, found.whole)
        if found.listing[0]:
            listed = self._out.add(f"archive/{found.listing[0]}", found.listing[1])
            fact = msgspec.structs.replace(fact, listed=listed)
        if found.bundle_whole:
            # Where a directory lies on the machine of its owner is nobody's business.
            written = _DIRECTORY.sub(b"file:///objects/", found.bundle_whole)
            fact = msgspec.structs.replace(fact, attestation=self._out.add(f"{stem}.attestation.json", written))
        kept: list[Stored] = []
        try:
            fact, refs = await self._prove(found, fact, stem, kept)
        except (PermanentError, UnsealedError) as error:
            if strict:
                raise
            fact, refs = msgspec.structs.replace(fact, gap=error.what), ()
        self._steps += custody.told(found.fact, found.bundle, kept)
        self._facts.append((_when(found.fact), fact))
        waiting = [(ref, meta.uid) for ref in refs]
        while waiting:
            ref, of = waiting.pop()
            waiting += [(inner, ref.sha256) for inner in await self._blob(ref, of)]

    def finish(self, about: About) -> str:
        """Write what binds and explains the folder; returns the digest of its manifest."""
        files = self._signer_files()
        said = custody.Step(at=about.made_at, of="", what="exported", by=about.exported_by, where=about.made_by)
        self._out.add(CUSTODY_PATH, custody.write((*self._steps, said)))
        self._out.add(ROOT_PATH, self._root)
        manifest = Manifest(
            schema=SCHEMA,
            made_by=about.made_by,
            made_at=about.made_at,
            exported_by=about.exported_by,
            cluster_id=self._cluster.cluster_id,
            cluster_name=self._cluster.cluster_name,
            asked=about.asked,
            keys=tuple(Key(key_id=who.key_id, path=path) for who, path in files.items()),
            names=tuple(
                Name(identity=who.name, issuer=who.issuer) for who in self._signers if isinstance(who, Identity)
            ),
            trusted_root=ROOT_PATH,
            custody=CUSTODY_PATH,
            facts=tuple(fact for _, fact in sorted(self._facts, key=lambda pair: (pair[0], pair[1].name))),
            blobs=tuple(blob for _, blob in sorted(self._blobs.items())),
            files=(),
        )
        lines = sorted(self._proven)
        self.example = guide.cosign(lines[0], ROOT_PATH, files) if lines else ""
        self._out.add(COMMANDS_PATH, guide.commands(lines, ROOT_PATH, files))
        self._out.add(README_PATH, guide.readme(manifest, lines, ROOT_PATH, files))
        return self._out.finish(msgspec.structs.replace(manifest, files=self._out.files))

    async def _prove(
        self, found: Found, fact: Fact, stem: str, kept: list[Stored]
    ) -> tuple[Fact, Sequence[EvidenceRef]]:
        if found.bundle is None:
            raise UnsealedError("not attested yet", where=found.name, fix="is the attestor enabled?")
        status = found.bundle.status
        if found.bundle.spec.attested_for.uid != fact.uid:
            raise IntegrityError("status names the evidence of another event", where=found.name, fix=_ASK)
        if status.phase is not BundlePhase.SEALED or status.worm_ref is None or status.subject_ref is None:
            phase = status.phase.value if status.phase else "Pending"
            raise UnsealedError(f"not sealed yet ({phase})", where=found.name, fix="wait for phase Attested")
        stored, spec = await self._exactly(status.subject_ref.url, status.subject_ref.sha256, MAX_FILE)
        kept.append(stored)
        # Status names the bundles, and status is not signed: only their statement says whose evidence this is.
        named = {leg.url: (leg.role, leg.sha256) for leg in status.bundles}
        named.setdefault(status.worm_ref.url, ("", status.worm_ref.sha256))
        legs = [
            await self._bundle(url, sha256, role if len(named) > 1 else "", stem)
            for url, (role, sha256) in named.items()
        ]
        kept += [leg.stored for leg in legs]
        reports = [leg.report for leg in legs]
        try:
            incident.prove(fact.kind, fact.name, fact.uid, spec, reports)
        except PermanentError as error:
            raise IntegrityError(error.what, where=found.name, fix=_ASK) from error
        if canonical(found.fact.spec) != spec:
            raise IntegrityError("the cluster shows something else than is attested", where=found.name, fix=_ASK)
        entries = [(leg.entry, leg.report) for leg in legs]
        self._steps += custody.proven(fact.uid, found.fact, entries, self._trust.root)
        for leg in legs:
            self._out.add(leg.path, leg.content)
            assert leg.report.signer is not None
            self._signers[leg.report.signer] = None
            self._proven.append(guide.line(found.fact, leg.path, f"{stem}.spec.json", leg.report))
        fact = msgspec.structs.replace(
            fact, spec=self._out.add(f"{stem}.spec.json", spec), bundles=tuple(leg.path for leg in legs)
        )
        return fact, tuple(incident.attested(incident.Proof(fact, found.fact.spec, tuple(reports))))

    async def _bundle(self, url: str, sha256: str, role: str, stem: str) -> "_Bundle":
        """Return a bundle of which everything holds; one that many share is read once."""
        if url not in self._bundles:
            stored, content = await self._exactly(url, sha256, bundles.MAX_BYTES)
            report = self._trust.check(content)
            if not report.ok:
                raise IntegrityError(report.reason, where=custody.place(url), fix=_ASK)
            read = bundles.read(content)
            place = stem
            if report.statement is not None and len(report.statement.subject) > 1:
                place = f"shared/{shared_name(digest(read.envelope.payload))}"
            path = f"{place}{f'.{role}' if role else ''}{BUNDLE_SUFFIX}"
            self._bundles[url] = _Bundle(path, stored, content, report, read.entries[0])
        found = self._bundles[url]
        if found.stored.sha256 != sha256:
            raise IntegrityError("the archive holds other bytes than status names", where=custody.place(url))
        return found

    async def _exactly(self, url: str, sha256: str, most: int) -> tuple[Stored, bytes]:
        stored, content = await self._read(url, most)
        if stored.sha256 != sha256:
            raise IntegrityError("the archive holds other bytes than status names", where=custody.place(url))
        return stored, content

    async def _blob(self, ref: EvidenceRef, of: str) -> tuple[EvidenceRef, ...]:
        """Take in what is named, once; returns what that names itself."""
        key = ref.url, ref.sha256
        before = self._blobs.get(key)
        if before is not None:
            if of not in before.of:
                self._blobs[key] = msgspec.structs.replace(before, of=(*before.of, of))
            return ()
        self._blobs[key] = Blob(url=ref.url, media_type=ref.media_type, sha256=ref.sha256, size=ref.size, of=(of,))
        if ref.size > self._most:
            self._tell(key, left_out=f"{ref.size:,} bytes")
            return ()
        if not ref.sha256:
            self._tell(key, gap="it is named without a digest")
            return ()
        try:
            # One at a time: each is read whole.
            async with self._large:
                stored, content = await self._exactly(ref.url, ref.sha256, self._most)
                suffix = _SUFFIXES.get(ref.media_type, ".bin")
                path = self._out.add(f"blobs/{ref.sha256.removeprefix('sha256:')}{suffix}", content)
        except TooLargeError as error:
            self._tell(key, left_out=error.what)
            return ()
        except (PermanentError, RefusedError) as error:
            self._tell(key, gap=error.what)
            return ()
        self._steps.append(custody.kept_step(of, stored))
        self._tell(key, path=path, size=len(content))
        if ref.media_type != incident.FORENSICS:
            return ()
        try:
            return incident.chunks(content)
        except PermanentError as error:
            self._tell(key, gap=error.what)
            return ()

    def _tell(self, key: tuple[str, str], **what: str | int) -> None:
        """Say what became of a blob; meanwhile another fact may have named it as well."""
        self._blobs[key] = msgspec.structs.replace(self._blobs[key], **what)

    def _signer_files(self) -> dict[PublicKey, str]:
        signed = [who for who in self._signers if isinstance(who, PublicKey)]
        one = len(signed) == 1
        return {
            key: self._out.add(KEY_PATH if one else f"keys/{key.key_id.replace(':', '-')}.pub", keys.to_pem(key))
            for key in signed
        }


def stem_of(name: str) -> str:
    """Return what a file of an object is called before its suffix: its name, cut where file systems would refuse it."""
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _when(fact: SecurityEvent | EventResponse) -> str:
    at = fact.spec.detected_at if isinstance(fact, SecurityEvent) else fact.metadata.creation_timestamp
    return "" if at is None else statement.micro(at)
