"""The key on disk: made once, for its owner alone, shown to nobody."""

import base64
import os
import stat
from pathlib import Path

import pytest

from ugallu.errors import PermanentError, RefusedError
from ugallu.evidence.keys import from_pem, to_pem
from ugallu.evidence.signers.local import LocalSigner, open_key


def test_a_key_is_made_on_first_use_for_its_owner_alone(tmp_path: Path) -> None:
    """The file has mode 0600 in a directory of mode 0700, and the next opening finds the same key."""
    path = tmp_path / "keys" / "k"
    first = open_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert open_key(path).public == first.public
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610])
def test_a_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    """Wider permissions are an error that says what to do, not something to mend in silence."""
    path = tmp_path / "k"
    open_key(path)
    path.chmod(mode)
    with pytest.raises(RefusedError, match="chmod 600"):
        open_key(path)


def test_a_link_to_a_key_is_refused(tmp_path: Path) -> None:
    """The key is a file of its own, not whatever a link points at."""
    open_key(tmp_path / "real")
    (tmp_path / "k").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="symbolic"):
        open_key(tmp_path / "k")


def test_a_broken_key_is_never_replaced(tmp_path: Path) -> None:
    """A file that holds no key stays as it is, and the error does not quote it."""
    path = tmp_path / "k"
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    path.chmod(0o600)
    with pytest.raises(PermanentError) as caught:
        open_key(path)
    assert "c2VjcmV0" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert b"c2VjcmV0" in path.read_bytes()


def test_no_repr_shows_the_key(tmp_path: Path) -> None:
    """Key and signer can be logged by mistake and give nothing away."""
    path = tmp_path / "k"
    key = open_key(path)
    secret = base64.b64decode("".join(path.read_text().splitlines()[1:-1]))
    shown = repr(key) + repr(LocalSigner(key)) + str(key)
    assert key.public.key_id in shown
    assert secret.hex() not in shown
    assert "PRIVATE" not in shown


def test_the_public_key_round_trips(tmp_path: Path) -> None:
    """The PEM that verifiers get is the key that signs."""
    key = open_key(tmp_path / "k").public
    assert from_pem(to_pem(key)) == key
    assert key.key_id.startswith("p256:")
    assert os.linesep not in key.hint
