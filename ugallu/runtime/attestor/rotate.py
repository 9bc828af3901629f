"""The signing key of a state directory, and the one that follows it.

Whoever runs the process puts the next key beside the one that signs, as `attestor.next.key`; it is taken over while the
process works. Every key that ever signed here stays in the list of signers, so what it signed goes on to verify. A key
that was exchanged in another way is refused: it could vouch for nothing.
"""

from pathlib import Path
from typing import Final

from anyio import to_thread

from ugallu.clock import Clock
from ugallu.errors import PermanentError, TransientError, UgalluError
from ugallu.evidence import keys
from ugallu.evidence.files import sync_directory, write_durably
from ugallu.evidence.kit import KEY_FILE
from ugallu.evidence.ports import Envelope, PublicKey
from ugallu.evidence.roll import Roll
from ugallu.evidence.signers.local import KeyFile, LocalSigner, load_key, open_key
from ugallu.logs import Logger

SIGNERS: Final = "signers.json"
"""Who signed here, in the evidence folder."""
KEY: Final = "keys/attestor.key"
NEXT: Final = "keys/attestor.next.key"
LOOK: Final = 15.0
"""Seconds between two looks for the next key."""


class RotatingSigner:
    """A `Signer` with the key of now, and a Service that looks for the next."""

    name = "signing key"

    def __init__(self, folder: Path, clock: Clock, log: Logger) -> None:
        """Open the key below `folder`, or make the first.

        Raises `PermanentError` when it is not one of those that are known to have signed here, `RefusedError` when
        others may read it.
        """
        self._folder = folder
        self._clock = clock
        self._log = log
        self._roll = Roll(folder / SIGNERS)
        self._signer = LocalSigner(_opened(folder, self._roll))
        self._trouble = ""

    @property
    def mode(self) -> str:
        """As that of its key."""
        return self._signer.mode

    @property
    def signs_as(self) -> tuple[PublicKey, ...]:
        """Every key that ever signed here, the one of now first."""
        past = (one for one in self._roll.known if isinstance(one, PublicKey))
        return tuple(dict.fromkeys((*self._signer.signs_as, *past)))

    async def sign(self, payload_type: str, payload: bytes) -> Envelope:
        """Sign with the key of now."""
        return await self._signer.sign(payload_type, payload)

    async def public_key(self) -> PublicKey:
        """Return the key of now."""
        return await self._signer.public_key()

    async def run(self) -> None:
        """Look for the next key until cancelled."""
        while True:
            await self._clock.sleep(LOOK)
            await to_thread.run_sync(self.look)

    def look(self) -> None:
        """Take over the next key, if there is one; what cannot be taken over is told once, and the old one signs on.

        To be called by whoever has the folder to himself.
        """
        try:
            self._take_over()
        except UgalluError as error:
            if str(error) != self._trouble:
                self._log.error("the next signing key is not taken", error=str(error))
            self._trouble = str(error)
        else:
            self._trouble = ""

    def _take_over(self) -> None:
        path = self._folder / NEXT
        if not path.exists():
            return
        key = load_key(path)
        # Known before it signs: whatever breaks from here on, the next start finds a key of the list.
        self._roll.add(*self._signer.signs_as, key.public)
        try:
            path.replace(self._folder / KEY)
            sync_directory(path.parent)
            _publish(self._folder, key.public)
        except OSError as error:
            raise TransientError(str(error.strerror), where=str(path), fix="check the disk") from error
        before, self._signer = self._signer.signs_as[0], LocalSigner(key)
        self._log.info("another key signs from now on", key=key.public.key_id, before=before.key_id)


def _opened(folder: Path, roll: Roll) -> KeyFile:
    """Open the key, or make it, but never a second one: what the first has signed would verify under neither."""
    path, published = folder / KEY, folder / KEY_FILE
    if not published.exists():
        return open_key(path)
    known = keys.from_pem(published.read_bytes(), where=str(published))
    found = open_key(path) if path.exists() else None
    if found is None or (found.public != known and found.public not in roll.known):
        raise PermanentError(
            f"the key {known.key_id} that signed the evidence here is {'gone' if found is None else 'another'}",
            where=str(path),
            fix=f"put it back; the next one is put beside it as {Path(NEXT).name}; to begin anew move {folder} away",
        )
    return found


def _publish(folder: Path, key: PublicKey) -> None:
    write_durably(folder / KEY_FILE, keys.to_pem(key))
