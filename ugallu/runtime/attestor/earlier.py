"""The stores before the one in use: what was begun there is finished from there, and what was sealed there is proven.

Which they were is kept in the state directory, as WORMConfigs had them: a process that starts after the change knows.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from ugallu.api.platform import WORMConfigSpec
from ugallu.errors import UgalluError
from ugallu.evidence.files import make_directory, write_durably
from ugallu.evidence.ports import EvidenceStore
from ugallu.logs import Logger
from ugallu.runtime.attestor.configs import Closing

MOST: Final = 4
"""Stores that are remembered besides the one in use."""


class Earlier:
    """Remembers and opens them."""

    def __init__(
        self, path: Path, open_store: Callable[[WORMConfigSpec], EvidenceStore], log: Logger, *own: EvidenceStore
    ) -> None:
        """`own` are stores that no config named: a directory of this process."""
        self._path = path
        self._open_store = open_store
        self._log = log
        self._own = own
        self._open: dict[tuple[str, ...], EvidenceStore] = {}

    @property
    def stores(self) -> tuple[EvidenceStore, ...]:
        """Those before, the newest first."""
        return (*reversed(self._open.values()), *self._own)

    async def follow(self, spec: WORMConfigSpec) -> None:
        """Learn which store is in use from now on, and open those before it."""
        known = [one for one in self._read() if _where(one) != _where(spec)][-MOST:]
        # At once: a few bytes, once a change, and nobody may use a store before it is known for the next process.
        self._write([*known, spec])
        await self.aclose()
        for one in known:
            try:
                self._open[_where(one)] = self._open_store(one)
            except UgalluError as error:
                self._log.warning("an earlier store cannot be opened", bucket=one.bucket, error=str(error))

    async def aclose(self) -> None:
        """Let go of them."""
        before, self._open = self._open, {}
        for store in before.values():
            if isinstance(store, Closing):
                await store.aclose()

    def _read(self) -> list[WORMConfigSpec]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[WORMConfigSpec])
        except FileNotFoundError:
            return []
        except (msgspec.DecodeError, OSError) as error:
            self._log.warning("which stores were used before cannot be read", path=str(self._path), error=str(error))
            return []

    def _write(self, specs: list[WORMConfigSpec]) -> None:
        try:
            make_directory(self._path.parent)
            write_durably(self._path, msgspec.json.encode(specs))
        except OSError as error:
            self._log.warning("the store in use cannot be written down", path=str(self._path), error=str(error))


def _where(spec: WORMConfigSpec) -> tuple[str, ...]:
    return spec.endpoint, spec.bucket, spec.key_prefix
