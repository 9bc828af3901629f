"""From AttestorConfig to evidence: each mode, what is missing, what does not fit, and what changes while it runs."""

import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from ugallu.api.bundle import SigningMode
from ugallu.api.k8s import SecretKeySelector
from ugallu.api.meta import Condition, Metadata
from ugallu.api.platform import (
    FulcioConfig,
    OpenBaoConfig,
    OpenBaoKeyType,
    RekorConfig,
    SecretReference,
    TimestampAuthorityConfig,
    WORMConfig,
    WORMConfigSpec,
)
from ugallu.errors import PermanentError, TransientError
from ugallu.evidence import bundle, trusted_root
from ugallu.evidence.logs import note
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, ElsewhereError, Stored
from ugallu.evidence.stores.directory import DirectoryStore
from ugallu.evidence.trust import Trust, holds
from ugallu.metrics import Metrics
from ugallu.net.ask import Peer, Reply
from ugallu.runtime.attestor.configs import MissingFileError, Place, Wanted, gather, open_all
from ugallu.runtime.attestor.live import LOOK, Live, LiveAuthority, LiveLog, LiveSigner, LiveStore
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.cluster import memory_cluster, running_cache
from ugallu.testing.contracts.evidence import subject
from ugallu.testing.openbao import FakeOpenBao
from ugallu.testing.sigstore import WHO, FakeSigstore, new_key, spki_of, token

NAMESPACE = "ugallu-system"
WORM = WORMConfigSpec(endpoint="https://s3.test", bucket="evidence")


class Line:
    """A connection to a service in memory."""

    def __init__(self, peer: Peer, about: dict[str, Any]) -> None:
        self._peer = peer
        self.about = about
        self.closed = False
        self.host = peer.host

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        assert not self.closed
        return await self._peer.ask(method, path, body, headers)

    async def aclose(self) -> None:
        self.closed = True


class World:
    """All services in memory, the files that are mounted, and whoever was connected to."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.clock = clock
        self.folder = folder
        self.sigstore = FakeSigstore(clock)
        self.bao = FakeOpenBao(clock)
        self.lines: list[Line] = []
        self.metrics = Metrics()
        self.put("ugallu-trusted-root", "trusted-root.json", self.sigstore.trusted_root)
        (folder / "account").mkdir()
        (folder / "account" / "token").write_text(token(audience="https://kubernetes.default.svc"))
        self.bao.accepted = (folder / "account" / "token").read_text()
        (folder / "oidc").write_text(token())

    def bucket(self, spec: WORMConfigSpec) -> "Bucket":
        """Open the store that a spec names."""
        store = Bucket(self.folder / spec.bucket, self.clock)
        store.open()
        return store

    @property
    def place(self) -> Place:
        return Place(
            secrets=self.folder / "secrets",
            account=self.folder / "account",
            state=self.folder / "state",
            clock=self.clock,
            metrics=self.metrics,
            connect=self._connect,
        )

    @property
    def wanted(self) -> Wanted:
        return Wanted(
            fulcio=FulcioConfig(
                issuer=WHO.issuer, fulcio_url="https://fulcio.test", oidc_token_path=str(self.folder / "oidc")
            ),
            openbao=OpenBaoConfig(
                address="https://openbao.test",
                key_name="ugallu",
                auth_role="attestor",
                key_type=OpenBaoKeyType.ECDSA_P256,
            ),
            rekor=RekorConfig(url="https://rekor.test"),
            timestamp_authority=TimestampAuthorityConfig(url="https://tsa.test/api/v1/timestamp"),
        )

    def put(self, secret: str, key: str, content: bytes) -> None:
        (self.folder / "secrets" / secret).mkdir(parents=True, exist_ok=True)
        (self.folder / "secrets" / secret / key).write_bytes(content)

    def _connect(self, url: str, **about: Any) -> Line:
        peers: dict[str, Peer] = {
            "fulcio.test": self.sigstore.fulcio,
            "rekor.test": self.sigstore.rekor,
            "tsa.test": self.sigstore.authority,
            "openbao.test": self.bao,
        }
        line = Line(peers[url.split("/")[2]], {"url": url, **about})
        self.lines.append(line)
        return line


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, ManualClock())


@pytest.mark.parametrize(
    ("mode", "legs"),
    [
        (SigningMode.FULCIO_KEYLESS, {"primary": "fulcio-keyless"}),
        (SigningMode.FULCIO, {"primary": "fulcio-keyless"}),
        (SigningMode.OPENBAO_TRANSIT, {"primary": "openbao-transit"}),
        (SigningMode.OPENBAO, {"primary": "openbao-transit"}),
        (SigningMode.DUAL, {"fulcio": "fulcio-keyless", "openbao": "openbao-transit"}),
        (SigningMode.ED25519_DEV, {"primary": "ed25519-dev"}),
    ],
)
async def test_each_mode_makes_evidence_that_verifies(world: World, mode: SigningMode, legs: dict[str, str]) -> None:
    """Signed, stamped, logged: every leg has a bundle of its own that holds under what the config trusts."""
    wanted = replace(world.wanted, signing_mode=mode)
    opened = open_all(wanted, gather(wanted, world.place.secrets), world.place)
    assert {leg.role: leg.signer.mode for leg in opened.legs} == legs
    reports = []
    for leg in opened.legs:
        envelope = await leg.signer.sign(STATEMENT_MEDIA_TYPE, subject(1))
        assert opened.authority is not None
        stamp = await opened.authority.stamp(envelope.signature)
        content = bundle.write(envelope, await opened.log.add(envelope), [stamp])
        trust = Trust(opened.root, leg.signer.signs_as)
        reports.append(trust.check(content, subject=b"1"))
        assert reports[-1].ok, reports[-1].reason
        assert len(reports[-1].times) == 2
    assert holds(reports, require_all=True)
    assert len(world.sigstore.rekor.bodies) == len(legs)
    assert world.metrics.value("ugallu_attestor_rekor_requests_total", api="rekor-v1", code="201") == len(legs)
    assert world.metrics.value("ugallu_attestor_tsa_requests_total", code="200") == len(legs)


def without(**changes: Any) -> Any:
    return lambda world: replace(world.wanted, **changes)


def broken(secret: str, key: str, content: bytes) -> Any:
    def change(world: World) -> Wanted:
        world.put(secret, key, content)
        return world.wanted

    return change


def rootless(part: str) -> Any:
    def change(world: World) -> Wanted:
        raw = json.loads(world.sigstore.trusted_root)
        raw[part] = []
        world.put("ugallu-trusted-root", "trusted-root.json", json.dumps(raw).encode())
        return world.wanted

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (without(fulcio=None), r"spec\.fulcio: this mode needs it"),
        (without(signing_mode=SigningMode.OPENBAO_TRANSIT, openbao=None), r"spec\.openbao: this mode needs it"),
        (without(signing_mode=SigningMode.DUAL, openbao=None), r"spec\.openbao: this mode needs it"),
        (without(signing_mode=SigningMode.LOCAL_P256), "of a process without a config"),
        (without(rekor=RekorConfig(url="https://rekor.test", enabled=False)), "always logged"),
        (without(rekor=RekorConfig(url="https://rekor.test", api_version=3)), "generations 1 and 2"),
        (
            without(rekor=RekorConfig(url="https://rekor.test", api_version=2), timestamp_authority=None),
            "signs no time",
        ),
        (
            lambda world: replace(
                world.wanted,
                signing_mode=SigningMode.DUAL,
                openbao=replace(world.wanted.openbao, key_type=OpenBaoKeyType.ED25519),
                rekor=RekorConfig(url="https://rekor.test", api_version=2),
            ),
            "takes no Ed25519",
        ),
        (
            lambda world: replace(
                world.wanted,
                signing_mode=SigningMode.OPENBAO_TRANSIT,
                openbao=replace(world.wanted.openbao, key_type=OpenBaoKeyType.RSA_PSS_2048),
            ),
            "PSS",
        ),
        (without(trusted_root_ref=SecretKeySelector(name="other", key="root.json")), "other/root.json: cannot be read"),
        (without(trusted_root_ref=SecretKeySelector(name="../x", key="root.json")), "names no Secret"),
        (broken("ugallu-trusted-root", "trusted-root.json", b"{}"), "Secret/ugallu-trusted-root"),
        (rootless("certificateAuthorities"), "no certificate authority"),
        (rootless("ctlogs"), "no certificate authority with its certificate log"),
        (rootless("timestampAuthorities"), "names no timestamp authority"),
        (rootless("tlogs"), "names no log at"),
        (
            lambda world: replace(
                world.wanted, rekor=RekorConfig(url="https://rekor.test", ca_bundle_secret=SecretReference(name="ca"))
            ),
            "ca/ca.crt: cannot be read",
        ),
        (
            lambda world: replace(
                world.wanted, fulcio=replace(world.wanted.fulcio, oidc_token_path=str(world.folder / "nothing"))
            ),
            "there is no token",
        ),
    ],
)
def test_what_is_missing_or_does_not_fit_is_an_error_by_name(world: World, change: Any, what: str) -> None:
    """Never a weaker fallback: the error says which field or file it is about."""
    wanted = change(world)
    with pytest.raises(PermanentError, match=what):
        open_all(wanted, gather(wanted, world.place.secrets), world.place)


def with_next_key(world: World, next_key: ec.EllipticCurvePrivateKey, starts: dt.timedelta) -> Wanted:
    """Prepare a rotation: the trusted root has the log's next key too."""
    public = spki_of(next_key)
    coming = replace(
        world.sigstore.rekor.log, log_id=note.log_id(public), spki=public, start=world.clock.now() + starts
    )
    raw = json.loads(world.sigstore.trusted_root)
    raw["tlogs"].append(trusted_root.element(coming))
    world.put("ugallu-trusted-root", "trusted-root.json", json.dumps(raw).encode())
    return replace(world.wanted, signing_mode=SigningMode.OPENBAO_TRANSIT)


@pytest.mark.parametrize("starts", [dt.timedelta(days=30), dt.timedelta(days=-1)])
async def test_a_root_that_is_prepared_for_a_rotation_seals_on(world: World, starts: dt.timedelta) -> None:
    """The next key may be there, to come or counting already: which one the log uses is said by its answer."""
    next_key = new_key()
    wanted = with_next_key(world, next_key, starts)
    opened = open_all(wanted, gather(wanted, world.place.secrets), world.place)

    async def sealed(number: int) -> bytes:
        envelope = await opened.legs[0].signer.sign(STATEMENT_MEDIA_TYPE, subject(number))
        entry = await opened.log.add(envelope)
        assert trusted_root.id_of(opened.log.trusted_root) == entry.log_id
        trust = Trust(opened.root, opened.legs[0].signer.signs_as)
        assert trust.check(bundle.write(envelope, entry), subject=b"%d" % number).ok
        return entry.log_id

    before = await sealed(1)
    assert before == world.sigstore.rekor.log.log_id
    await world.clock.advance(dt.timedelta(days=31).total_seconds())
    world.sigstore.rekor.key = next_key
    assert await sealed(2) == world.sigstore.rekor.log.log_id != before


def test_a_root_whose_keys_are_all_of_another_time_is_an_error(world: World) -> None:
    """A log whose key is only to come, or has ended, is not used as if it counted."""
    raw = json.loads(world.sigstore.trusted_root)
    raw["tlogs"][0]["publicKey"]["validFor"]["start"] = "2099-01-01T00:00:00Z"
    world.put("ugallu-trusted-root", "trusted-root.json", json.dumps(raw).encode())
    with pytest.raises(PermanentError, match="counts today"):
        open_all(world.wanted, gather(world.wanted, world.place.secrets), world.place)


def test_connections_are_as_the_config_has_them(world: World) -> None:
    """CA bundles are used, TLS is checked unless a lab says otherwise, and only what carries no secret may be plain."""
    world.put("fulcio-ca", "ca.crt", b"the CA")
    fulcio, openbao = world.wanted.fulcio, world.wanted.openbao
    assert fulcio is not None
    assert openbao is not None
    wanted = replace(
        world.wanted,
        signing_mode=SigningMode.DUAL,
        fulcio=replace(fulcio, ca_bundle_secret=SecretReference(name="fulcio-ca")),
        openbao=replace(openbao, insecure_skip_verify=True),
    )
    open_all(wanted, gather(wanted, world.place.secrets), world.place)
    seen = {line.host: line.about for line in world.lines}
    assert (seen["fulcio.test"]["ca"], seen["fulcio.test"]["verify"]) == (b"the CA", True)
    assert seen["openbao.test"]["verify"] is False
    assert {host: about["secret"] for host, about in seen.items()} == {
        "fulcio.test": True,
        "openbao.test": True,
        "rekor.test": False,
        "tsa.test": False,
    }


class Bucket(DirectoryStore):
    """A store with connections."""

    closed = False

    def key(self, url: str) -> str:
        if not url.startswith(self.endpoint):
            raise ElsewhereError("of another bucket", where=url)
        return super().key(url)

    async def aclose(self) -> None:
        self.closed = True
        self.close()


async def say(found: WORMConfig, ready: Condition) -> None:
    """Nobody is told anything where every object is called as it should be."""
    pytest.fail(f"{found.metadata.name}: {ready}")


async def test_a_store_under_another_name_is_followed_and_told_so(world: World) -> None:
    """The lowest name counts while none is called default, and each that is not called so hears whether it counts."""
    cluster = memory_cluster(world.clock)
    told: dict[str, Condition] = {}
    opened: list[str] = []

    async def say(found: WORMConfig, ready: Condition) -> None:
        told[found.metadata.name] = ready

    def bucket(spec: WORMConfigSpec) -> Bucket:
        opened.append(spec.bucket)
        return world.bucket(spec)

    async with running_cache(cluster) as cache:
        files = gather(world.wanted, world.place.secrets)
        live = Live(
            world.wanted,
            files,
            open_all(world.wanted, files, world.place),
            world.place,
            worm=cache.view(WORMConfig, namespace=NAMESPACE),
            say=say,
            open_store=bucket,
            log=structlog.get_logger(),
        )
        for name in ("zeta", "alpha"):
            spec = replace(WORM, bucket=f"of-{name}")
            await cluster.create(WORMConfig(metadata=Metadata(name=name, namespace=NAMESPACE), spec=spec))
        async with anyio.create_task_group() as tg:
            tg.start_soon(live.run)
            await _until(lambda: len(told) == 2)
            assert opened == ["of-alpha"]
            assert {ready.reason for ready in told.values()} == {"NotDefault"}
            assert told["alpha"].message.startswith("used")
            assert told["zeta"].message.startswith("not read")
            spec = replace(WORM, bucket="of-default")
            await cluster.create(WORMConfig(metadata=Metadata(name="default", namespace=NAMESPACE), spec=spec))
            await _until(lambda: told["alpha"].message.startswith("not read"))
            assert opened[:2] == ["of-alpha", "of-default"]
            tg.cancel_scope.cancel()


async def test_nothing_is_stored_before_there_is_a_store(world: World) -> None:
    """Without a WORMConfig whoever has evidence waits; with one it goes on by itself, and a new one takes over."""
    cluster = memory_cluster(world.clock)
    opened: list[Bucket] = []

    def bucket(spec: WORMConfigSpec) -> Bucket:
        opened.append(world.bucket(spec))
        return opened[-1]

    wanted = world.wanted
    files = gather(wanted, world.place.secrets)
    async with running_cache(cluster) as cache:
        live = Live(
            wanted,
            files,
            open_all(wanted, files, world.place),
            world.place,
            worm=cache.view(WORMConfig, namespace=NAMESPACE),
            say=say,
            open_store=bucket,
            log=structlog.get_logger(),
        )
        store = LiveStore(live)
        stored: list[Stored] = []

        async def put(key: str) -> None:
            until = world.clock.now() + dt.timedelta(days=1)
            stored.append(await store.put(key, b"x", media_type="text/plain", until=until))

        async with anyio.create_task_group() as tg:
            tg.start_soon(live.run)
            tg.start_soon(put, "a")
            await settled()
            assert not stored
            assert "WORMConfig/default" in live.reason
            with pytest.raises(TransientError, match="WORMConfig"):
                store.key("x")
            config = WORMConfig(metadata=Metadata(name="default", namespace=NAMESPACE), spec=WORM)
            made = await cluster.create(config)
            await _until(lambda: bool(stored))
            assert not live.reason
            await cluster.apply(replace(made, spec=replace(WORM, bucket="other")), manager="test")
            await _until(lambda: len(opened) == 3)
            await put("b")
            assert (world.folder / "other" / "objects" / "b").exists()
            await _until(lambda: opened[0].closed)
            tg.cancel_scope.cancel()
        assert opened[1].closed
        assert opened[2].closed
        assert all(line.closed for line in world.lines)


async def test_nothing_goes_into_the_directory_that_a_config_is_about_to_replace(world: World) -> None:
    """An embedded process has a directory from its start; what is stored before its WORMConfig was read goes where that says."""
    cluster = memory_cluster(world.clock)
    await cluster.create(WORMConfig(metadata=Metadata(name="default", namespace=NAMESPACE), spec=WORM))

    directory = world.bucket(replace(WORM, bucket="directory"))
    files = gather(world.wanted, world.place.secrets)
    async with running_cache(cluster) as cache:
        live = Live(
            world.wanted,
            files,
            open_all(world.wanted, files, world.place),
            world.place,
            worm=cache.view(WORMConfig, namespace=NAMESPACE),
            say=say,
            open_store=world.bucket,
            log=structlog.get_logger(),
            store=directory,
        )
        stored: list[Stored] = []

        async def put() -> None:
            until = world.clock.now() + dt.timedelta(days=1)
            stored.append(await LiveStore(live).put("a", b"x", media_type="text/plain", until=until))

        async with anyio.create_task_group() as tg:
            tg.start_soon(put)
            tg.start_soon(live.run)
            await _until(lambda: bool(stored))
            tg.cancel_scope.cancel()
    assert (world.folder / "evidence" / "objects" / "a").exists()
    directory.close()


async def test_what_lies_in_the_store_before_is_not_lost(world: World) -> None:
    """A8: after a change of buckets drafts are found where they were staged and evidence where it was sealed, by the
    next process too; what is not needed any more goes there as well."""
    cluster = memory_cluster(world.clock)

    files = gather(world.wanted, world.place.secrets)
    config = WORMConfig(metadata=Metadata(name="default", namespace=NAMESPACE), spec=WORM)
    made = await cluster.create(config)
    stored: list[Stored] = []
    for life in range(2):
        async with running_cache(cluster) as cache:
            live = Live(
                world.wanted,
                files,
                open_all(world.wanted, files, world.place),
                world.place,
                worm=cache.view(WORMConfig, namespace=NAMESPACE),
                say=say,
                open_store=world.bucket,
                log=structlog.get_logger(),
            )
            store = LiveStore(live, lambda live=live: live.earlier)  # type: ignore[misc]
            async with anyio.create_task_group() as tg:
                tg.start_soon(live.run)
                await store.stat("staging/x")
                if not life:
                    until = world.clock.now() + dt.timedelta(days=1)
                    stored.append(await store.put("a", b"evidence", media_type="text/plain", until=until))
                    await store.put("staging/x", b"draft", media_type="text/plain", until=None)
                    await cluster.apply(replace(made, spec=replace(WORM, bucket="other")), manager="test")
                    await _until(lambda live=live: len(live.earlier) == 1)
                assert await store.stat("staging/x") is None
                assert await store.left("staging/x") == b"draft"
                assert await store.left("staging/y") is None
                assert await store.of(stored[0].url).get("a") == b"evidence"
                with pytest.raises(ElsewhereError):
                    store.of("s3://unknown/a")
                if life:
                    await store.drop("staging/x")
                    assert await store.left("staging/x") is None
                tg.cancel_scope.cancel()


async def test_a_secret_that_changes_is_taken_over(world: World) -> None:
    """A CA or trusted root that is replaced opens everything anew; one that cannot be read changes nothing, and is told."""
    cluster = memory_cluster(world.clock)
    wanted = world.wanted
    files = gather(wanted, world.place.secrets)
    async with running_cache(cluster) as cache:
        live = Live(
            wanted,
            files,
            open_all(wanted, files, world.place),
            world.place,
            worm=cache.view(WORMConfig, namespace=NAMESPACE),
            say=say,
            open_store=lambda _: pytest.fail("no store is configured"),
            log=structlog.get_logger(),
        )
        signer, log, authority = LiveSigner(live, 0), LiveLog(live), LiveAuthority(live)
        envelope = await signer.sign(STATEMENT_MEDIA_TYPE, subject(1))
        before = list(world.lines)
        async with anyio.create_task_group() as tg:
            tg.start_soon(live.run)
            await settled()
            world.put("ugallu-trusted-root", "trusted-root.json", b"{")
            await world.clock.advance(LOOK)
            await _until(lambda: "trusted-root" in live.reason)
            assert not any(line.closed for line in before)
            assert (await log.add(envelope)).index == 0
            other = FakeSigstore(world.clock)
            world.sigstore = other
            world.put("ugallu-trusted-root", "trusted-root.json", other.trusted_root)
            await world.clock.advance(LOOK)
            await _until(lambda: all(line.closed for line in before))
            envelope = await signer.sign(STATEMENT_MEDIA_TYPE, subject(2))
            content = bundle.write(envelope, await log.add(envelope), [await authority.stamp(envelope.signature)])
            assert Trust(live.root, signer.signs_as).check(content, subject=b"2").ok
            tg.cancel_scope.cancel()


async def _until(holds: Any) -> None:
    with anyio.fail_after(5):
        while not holds():
            await settled()
            await anyio.lowlevel.checkpoint()


def test_a_missing_file_may_still_come(world: World) -> None:
    """A Secret that is not mounted yet is told apart from a config that can never work: it is tried again."""
    (world.folder / "secrets" / "ugallu-trusted-root" / "trusted-root.json").unlink()
    with pytest.raises(MissingFileError, match="create the Secret ugallu-trusted-root"):
        gather(world.wanted, world.place.secrets)
