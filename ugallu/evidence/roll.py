"""Who has ever signed here: what they signed must verify after another took their place."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from ugallu.errors import TransientError
from ugallu.evidence.files import make_directory, sync_directory, write_durably
from ugallu.evidence.ports import IntegrityError, PublicKey
from ugallu.evidence.x509 import Identity


class _Held(msgspec.Struct, frozen=True):
    keys: tuple[PublicKey, ...] = ()
    identities: tuple[Identity, ...] = ()


def written(signers: Iterable[PublicKey | Identity]) -> bytes:
    """Return signers as a file that `read` reads."""
    listed = tuple(dict.fromkeys(signers))
    keys = tuple(one for one in listed if isinstance(one, PublicKey))
    return msgspec.json.encode(_Held(keys, tuple(one for one in listed if isinstance(one, Identity))))


def read(content: bytes, *, where: str) -> tuple[PublicKey | Identity, ...]:
    """Return the signers of a file; raises `IntegrityError` for what is none."""
    try:
        held = msgspec.json.decode(content, type=_Held)
    except msgspec.DecodeError as error:
        raise IntegrityError("the signers cannot be read", where=where) from error
    return (*held.keys, *held.identities)


class Roll:
    """A file that only grows."""

    def __init__(self, path: Path) -> None:
        """Read it; raises `IntegrityError` when it is not what was written."""
        self._path = path
        try:
            self._held = msgspec.json.decode(path.read_bytes(), type=_Held)
        except FileNotFoundError:
            self._held = _Held()
        except (msgspec.DecodeError, OSError) as error:
            raise IntegrityError("the signers of before cannot be read", where=str(path)) from error

    @property
    def known(self) -> tuple[PublicKey | Identity, ...]:
        """Everybody who was ever added, in order."""
        return (*self._held.keys, *self._held.identities)

    def add(self, *signers: PublicKey | Identity) -> None:
        """Remember these, durably; raises `TransientError` when the disk refuses."""
        fresh = [signer for signer in dict.fromkeys(signers) if signer not in self.known]
        if not fresh:
            return
        held = _Held(
            (*self._held.keys, *(one for one in fresh if isinstance(one, PublicKey))),
            (*self._held.identities, *(one for one in fresh if isinstance(one, Identity))),
        )
        try:
            make_directory(self._path.parent)
            write_durably(self._path, msgspec.json.encode(held))
            sync_directory(self._path.parent)
        except OSError as error:
            raise TransientError(str(error.strerror), where=str(self._path), fix="check the disk") from error
        self._held = held
