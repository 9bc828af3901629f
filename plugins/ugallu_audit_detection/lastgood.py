"""The last version of each rule that served, on disk: a bad edit must not blind a rule, not even across a restart."""

import contextlib
import hashlib
import os
from pathlib import Path
from urllib.parse import quote

import msgspec

from ugallu.sdk import SigmaRuleSpec, encode

MAX_NAME = 200


class LastGood:
    """One file a rule, replaced whole; one that cannot be read counts as absent."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, rule: str, spec: SigmaRuleSpec) -> None:
        """This version serves. A disk that refuses costs this net below the rule, not the rule."""
        with contextlib.suppress(OSError):
            self._write(rule, spec)

    def _write(self, rule: str, spec: SigmaRuleSpec) -> None:
        content = encode(spec)
        path = self._path(rule)
        try:
            if path.read_bytes() == content:
                return
        except FileNotFoundError:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_suffix(".new")
        draft.write_bytes(content)
        os.replace(draft, path)  # noqa: PTH105 - Path.replace says less

    def of(self, rule: str) -> SigmaRuleSpec | None:
        """Return the version that served last."""
        try:
            return msgspec.json.decode(self._path(rule).read_bytes(), type=SigmaRuleSpec)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def forget(self, rule: str) -> None:
        """The rule is gone."""
        with contextlib.suppress(OSError):
            self._path(rule).unlink()

    def _path(self, rule: str) -> Path:
        name = quote(rule, safe="")
        if len(name) > MAX_NAME:  # a file system takes 255 bytes; two long names may begin alike
            name = hashlib.sha256(rule.encode()).hexdigest()
        return self._directory / f"{name}.json"
