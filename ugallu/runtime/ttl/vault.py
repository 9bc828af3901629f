"""The evidence as ttl sees it: a store to archive into, and whether a bundle's evidence is there and verifies.

The same store that the attestor writes to. Where none is configured there is no vault, and nothing is ever deleted.
"""

from pathlib import Path
from typing import NamedTuple, Protocol

from ugallu.api.bundle import AttestationBundle
from ugallu.errors import PermanentError
from ugallu.evidence import keys, trusted_root
from ugallu.evidence.kit import KEY_FILE, ROOT_FILE
from ugallu.evidence.ports import EvidenceStore, PublicKey
from ugallu.evidence.stores.directory import DirectoryStore
from ugallu.evidence.trusted_root import TrustedRoot
from ugallu.operator.platform import Platform
from ugallu.operator.shared import Lent
from ugallu.runtime.attestor.choose import FOLDER, directory
from ugallu.runtime.attestor.proof import confirm


class Vault(Protocol):
    """A store, and the word of the evidence in it."""

    @property
    def store(self) -> EvidenceStore:
        """Where copies are kept."""
        ...

    async def confirm(self, bundle: AttestationBundle) -> None:
        """Read back and verify what a sealed bundle names; raises `IntegrityError` unless it is that evidence."""
        ...

    def close(self) -> None:
        """Give back what is open."""
        ...


class _Trusted(NamedTuple):
    store: EvidenceStore
    key: PublicKey
    root: TrustedRoot


class LocalVault:
    """The directory of this process; what must be trusted is what the attestor publishes beside it."""

    def __init__(self, folder: Path, lent: Lent[DirectoryStore]) -> None:
        self._folder = folder
        self._lent = lent
        self._known: tuple[tuple[int, ...], _Trusted] | None = None

    @property
    def store(self) -> EvidenceStore:
        """The directory."""
        return self._lent.value

    async def confirm(self, bundle: AttestationBundle) -> None:
        """Verify under the attestor's present key and log."""
        await confirm(self._trusted(), bundle)

    def close(self) -> None:
        """Let the last one close the directory."""
        self._lent.give_back()

    def _trusted(self) -> _Trusted:
        """Return what the attestor published, read again when it changed: two small files."""
        files = [self._folder / name for name in (KEY_FILE, ROOT_FILE)]
        try:
            version = tuple(path.stat().st_mtime_ns for path in files)
            if self._known is None or self._known[0] != version:
                key, root = (path.read_bytes() for path in files)
                trusted = _Trusted(self.store, keys.from_pem(key, where=str(files[0])), trusted_root.read(root))
                self._known = version, trusted
        except OSError as error:
            raise PermanentError(
                "the attestor has published nothing to verify with",
                where=str(self._folder),
                fix="run the attestor on this state",
            ) from error
        return self._known[1]


def vault(platform: Platform) -> Vault | None:
    """Return the vault of this platform, None where no store outlives the Pod.

    Raises `RefusedError` when another process writes to the store, `TransientError` when the disk refuses.
    """
    if not platform.cluster.embedded and platform.settings.evidence != "local":
        return None
    folder = platform.state / FOLDER
    return LocalVault(folder, directory(folder, platform))
