"""Where an installation's evidence lies, and what it is verified with: for whoever only reads."""

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import msgspec

from ugallu.api.platform import AttestorConfig, WORMConfig, WORMConfigSpec
from ugallu.clock import SystemClock
from ugallu.cluster.port import Cluster, list_all
from ugallu.errors import PermanentError
from ugallu.evidence import keys, roll, trusted_root
from ugallu.evidence.export import TooLargeError
from ugallu.evidence.kit import KEY_FILE, ROOT_FILE
from ugallu.evidence.ports import EvidenceStore, PublicKey, Stored
from ugallu.evidence.stores.directory import DirectoryStore
from ugallu.evidence.stores.parts import split
from ugallu.evidence.trust import Trust
from ugallu.evidence.x509 import Identity
from ugallu.operator.singletons import chosen
from ugallu.runtime.attestor.configs import ROOT_KEY, ROOT_SECRET
from ugallu.runtime.attestor.publish import SIGNERS

if TYPE_CHECKING:
    from ugallu.evidence.stores.s3 import S3Store
    from ugallu.settings import Settings

C = TypeVar("C", AttestorConfig, WORMConfig)

FOLDER: Final = "evidence"
STORE: Final = "store"
ROLL: Final = "signers.json"
KEPT: Final = 8
"""Blobs of many facts that are remembered between two of them."""


class Holdings:
    """The stores that evidence of this installation lies in, and what it is verified with."""

    def __init__(self, trust: Trust, root: bytes, stores: "Stores") -> None:
        self.trust = trust
        self.root = root
        """The trusted root, in Sigstore's format."""
        self._stores = stores
        archive = stores.bucket or stores.local
        assert archive is not None
        self.archive: EvidenceStore = archive
        """Where evidence goes now, and copies of what is collected."""
        self._kept: OrderedDict[tuple[EvidenceStore, str], tuple[Stored, bytes]] = OrderedDict()
        self._turn = anyio.Lock()

    async def read(self, url: str, most: int) -> tuple[Stored, bytes]:
        """Return what lies at a URL and how it is kept.

        Raises `PermanentError` where it is none of our stores, `TooLargeError` for more than so many bytes.
        """
        store = self._stores.behind(url)
        key, part = split(store.key(url))
        known = part is not None and (store, key) in self._kept
        there = None if known else await store.stat(key)
        if there is not None and there.size > most:
            raise TooLargeError(f"{there.size:,} bytes", where=url)
        if part is None:
            return await store.read(key)
        # The bytes of one fact lie among those of many, which are read once for all of them.
        async with self._turn:
            if (store, key) not in self._kept:
                self._kept[store, key] = await store.read(key)
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end((store, key))
        return part.of(*self._kept[store, key])


class Stores:
    """Finds the store behind a URL: the directory of a state, or a bucket as WORMConfig describes it."""

    def __init__(self, local: DirectoryStore | None, worm: WORMConfigSpec | None, secrets: Path) -> None:
        self.local = local
        self._worm = worm
        self._secrets = secrets
        self._buckets: dict[str, S3Store] = {}

    @property
    def bucket(self) -> "S3Store | None":
        """The bucket where evidence goes now, if it goes into one."""
        return None if self._worm is None else self._opened(self._worm.bucket, self._worm)

    def behind(self, url: str) -> EvidenceStore:
        """Return the store that the URL is of; raises `PermanentError` when there is none."""
        scheme, _, rest = url.partition("://")
        if scheme == "file" and self.local is not None:
            return self.local
        if scheme == "s3" and self._worm is not None:
            bucket = rest.partition("/")[0]
            if bucket == self._worm.bucket and rest.startswith(f"{bucket}/{self._worm.key_prefix}"):
                return self._opened(bucket, self._worm)
            # Evidence stays where it was put when a config names another bucket, of the same service as a rule.
            return self._opened(f"{bucket}/", msgspec.structs.replace(self._worm, bucket=bucket, key_prefix=""))
        fix = "pass --state DIR of who sealed it" if scheme == "file" else "WORMConfig/default says where evidence goes"
        raise PermanentError("no evidence store of this installation", where=url[:200], fix=fix)

    async def aclose(self) -> None:
        """Let go of connections."""
        for bucket in self._buckets.values():
            await bucket.aclose()

    def _opened(self, name: str, spec: WORMConfigSpec) -> "S3Store":
        from ugallu.runtime.attestor.choose import bucket

        if name not in self._buckets:
            self._buckets[name] = bucket(spec, self._secrets, SystemClock())
        return self._buckets[name]


@asynccontextmanager
async def holdings(
    cluster: Cluster,
    settings: "Settings",
    *,
    root: Path | None = None,
    signers: tuple[PublicKey | Identity, ...] = (),
    endpoint: str = "",
) -> AsyncIterator[Holdings]:
    """Open what the installation behind this cluster keeps, for reading.

    `root` and `signers` are the reader's own, and believed before what the installation names; `endpoint` is where its
    bucket is reached from here. Raises `PermanentError` when nothing was ever sealed here, or nobody says what to
    verify with.
    """
    from ugallu.supervisor.reach import namespace_of

    namespace = namespace_of(settings)
    folder = settings.state_dir / FOLDER if settings.state else None
    local = folder / STORE if folder is not None else None
    worm = await config_of(cluster, WORMConfig, namespace)
    attestor = await config_of(cluster, AttestorConfig, namespace)
    stores = Stores(
        DirectoryStore(local, SystemClock()) if local is not None and local.is_dir() else None,
        None if worm is None else msgspec.structs.replace(worm.spec, endpoint=endpoint or worm.spec.endpoint),
        Path(settings.secrets),
    )
    try:
        if stores.local is None and stores.bucket is None:
            raise PermanentError("nothing was sealed here", where=settings.state, fix="run without --no-seal")
        content = trusted_root.joined(list(roots_of(settings, attestor, folder, root)))
        known = [*signers, *signers_in(folder)]
        for store in (stores.local, stores.bucket):
            if store is not None and await store.stat(SIGNERS) is not None:
                known += roll.read(await store.get(SIGNERS), where=SIGNERS)
        trust = Trust(trusted_root.read(content), tuple(dict.fromkeys(known)))
        yield Holdings(trust, content, stores)
    finally:
        await stores.aclose()


async def config_of(cluster: Cluster, kind: type[C], namespace: str) -> C | None:
    """Return the config of this kind that counts, None if there is none."""
    found, _ = await list_all(cluster, kind, namespace=namespace)
    return chosen(found)


def roots_of(
    settings: "Settings", attestor: AttestorConfig | None, folder: Path | None, given: Path | None
) -> Iterator[bytes]:
    """Yield the trusted roots that there are: the reader's, the one that is mounted, that of the embedded log."""
    ref = None if attestor is None else attestor.spec.trusted_root_ref
    name, key = (ref.name or ROOT_SECRET, ref.key) if ref is not None else (ROOT_SECRET, ROOT_KEY)
    places = [given, Path(settings.secrets) / name / key, folder / ROOT_FILE if folder is not None else None]
    there = [place for place in places if place is not None and (place is given or place.exists())]
    if not there:
        raise PermanentError(
            "nobody says which logs and authorities to believe",
            where=str(places[1]),
            fix="pass --trusted-root FILE, or --secrets DIR that holds the attestor's Secrets",
        )
    for place in there:
        with place.open("rb") as file:
            yield file.read(trusted_root.MAX_BYTES + 1)


def signers_in(folder: Path | None) -> tuple[PublicKey | Identity, ...]:
    """Return who has signed in a state directory."""
    found: list[PublicKey | Identity] = []
    if folder is not None and (folder / KEY_FILE).exists():
        found.append(keys.from_pem((folder / KEY_FILE).read_bytes(), where=str(folder / KEY_FILE)))
    if folder is not None and (folder / ROLL).exists():
        found += roll.read((folder / ROLL).read_bytes(), where=str(folder / ROLL))
    return tuple(found)
