"""Versions of objects in SQLite, and the only door to sqlite3.

One table holds the present and the past: a version lives from its `revision` until it `ended`, so a list at an older
revision, a watch and the state before a change are all ranges of it. Versions that ended at or before `floor` are
removed, and nothing behind the floor is answered any more.

WAL with `synchronous=FULL`: a commit returns after an fsync of the log, so what is acknowledged survives a power cut
and not only kill -9 (for which NORMAL would do). A journal whose cursor is durable stands before this store: were
the store to forget what the journal believes done, the event would be lost. Commits are grouped, which pays for it.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from ugallu.cluster.port import Change, GoneError, UnavailableError
from ugallu.errors import PermanentError

FILE: Final = "cluster.db"
FORMAT: Final = 1
"""`user_version` of the file; a reader refuses a newer one."""

_SCHEMA: Final = """
CREATE TABLE versions (
    revision INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    change TEXT NOT NULL,
    ended INTEGER,
    owned TEXT,
    body BLOB NOT NULL
);
CREATE INDEX by_place ON versions (kind, namespace, name, revision);
CREATE INDEX by_end ON versions (ended) WHERE ended IS NOT NULL;
CREATE TABLE dependents (
    owner TEXT NOT NULL,
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (owner, kind, namespace, name)
) WITHOUT ROWID;
CREATE TABLE floor (revision INTEGER NOT NULL);
INSERT INTO floor VALUES (0);
"""

_FIRST_REVISION: Final = 1
_SELECT: Final = "SELECT revision, kind, namespace, name, change, owned, body FROM versions"
_SWEEP: Final = 256
"""Revisions between two sweeps of history: few enough that a sweep is short."""


class Place(NamedTuple):
    """Where an object is: `group/Kind`, namespace, name."""

    kind: str
    namespace: str
    name: str


class Version(NamedTuple):
    """One version of an object; `owned` is the text of its field owners, None when nobody ever applied."""

    revision: int
    kind: str
    namespace: str
    name: str
    change: str
    owned: str | None
    body: bytes

    @property
    def place(self) -> Place:
        """Where the object is."""
        return Place(self.kind, self.namespace, self.name)


class Reading:
    """Queries over one connection; each sees what was committed when it began."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def head(self) -> int:
        """Return the newest revision."""
        found: int | None = self._all("SELECT MAX(revision) FROM versions")[0][0]
        return _FIRST_REVISION if found is None else found

    def newest(self, place: Place) -> Version | None:
        """Return the object as it is, None when there is none."""
        found = self._versions("WHERE kind = ? AND namespace = ? AND name = ? ORDER BY revision DESC LIMIT 1", place)
        return found[0] if found and found[0].change != Change.DELETED else None

    def page(
        self, kind: str, at: int, *, after: tuple[str, str] = ("", ""), namespace: str = "", name: str = "", limit: int
    ) -> list[Version]:
        """Return up to `limit` objects as they were at revision `at`, ordered by namespace and name.

        Raises `GoneError` when history no longer reaches back.
        """
        where, args = "kind = ? AND (namespace, name) > (?, ?)", [kind, *after]
        for column, wanted in (("namespace", namespace), ("name", name)):
            if wanted:
                where += f" AND {column} = ?"
                args.append(wanted)
        found = self._versions(
            f"WHERE {where} AND revision <= ? AND (ended IS NULL OR ended > ?) ORDER BY namespace, name LIMIT ?",
            (*args, at, at, limit),
        )
        self._reaches(at)
        return found

    def changes(self, kind: str, since: int, until: int, limit: int) -> list[Version]:
        """Return up to `limit` versions of a kind made after `since`, up to `until`, in order.

        Raises `GoneError` when history no longer reaches back.
        """
        # `+kind` keeps SQLite from the index by place, which would visit every object of the kind.
        found = self._versions(
            "WHERE revision > ? AND revision <= ? AND +kind = ? ORDER BY revision LIMIT ?",
            (since, until, kind, limit),
        )
        self._reaches(since)
        return found

    def before(self, revision: int) -> Version | None:
        """Return the version that this revision replaced, None when it made a new object."""
        found = self._versions("WHERE ended = ? AND revision < ?", (revision, revision))
        return found[0] if found else None

    def dependents(self, owner: str) -> list[Place]:
        """Return the objects that name this uid as an owner."""
        return [
            Place(*row) for row in self._all("SELECT kind, namespace, name FROM dependents WHERE owner = ?", (owner,))
        ]

    def floor(self) -> int:
        """Return the oldest revision that history reaches back to."""
        found: int = self._all("SELECT revision FROM floor")[0][0]
        return found

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _reaches(self, revision: int) -> None:
        # Asked after the rows were read: had a sweep come between, the floor says so.
        floor = self.floor()
        if revision < floor:
            raise GoneError(f"revision {revision} is too old, history begins at {floor}", fix="list again")

    def _versions(self, clauses: str, args: Sequence[Any]) -> list[Version]:
        return [Version._make(row) for row in self._all(f"{_SELECT} {clauses}", args)]

    def _all(self, sql: str, args: Sequence[Any] = ()) -> list[Any]:
        # Not `_translated`: this is done a dozen times a write, and a context manager costs as much as the query.
        try:
            return self._connection.execute(sql, args).fetchall()
        except sqlite3.Error as error:
            raise _translation(error) from error


class Writing(Reading):
    """The one connection that writes; used by one thread at a time, inside `transaction`."""

    def __init__(self, connection: sqlite3.Connection, history: int) -> None:
        super().__init__(connection)
        self._history = history
        self._revision = self.head()
        self._swept = self.floor()
        self.touched: dict[str, int] = {}
        """Kinds changed in this transaction, each with the first revision that did."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is done inside as one, durably; undo all of it on an error."""
        revision, swept = self._revision, self._swept
        self.touched = {}
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._sweep()
            self._run("COMMIT")
        except BaseException:
            self._revision, self._swept = revision, swept
            self.touched = {}
            self._undo("ROLLBACK")
            raise

    @contextmanager
    def step(self) -> Iterator[None]:
        """Undo what is done inside on an error, but not the rest of the transaction."""
        revision, touched = self._revision, dict(self.touched)
        self._run("SAVEPOINT step")
        try:
            yield
        except BaseException:
            self._revision, self.touched = revision, touched
            self._undo("ROLLBACK TO step")
            self._undo("RELEASE step")
            raise
        self._run("RELEASE step")

    @property
    def upcoming(self) -> int:
        """The revision that the next `put` makes."""
        return self._revision + 1

    def put(self, place: Place, change: Change, body: bytes, owned: str | None, replaced: int | None) -> None:
        """Add a version at the upcoming revision; `replaced` is the revision it ends, None for a new object."""
        self._revision += 1
        self.touched.setdefault(place.kind, self._revision)
        if replaced is not None:
            self._run("UPDATE versions SET ended = ? WHERE revision = ?", (self._revision, replaced))
        # A tombstone ends as it begins: no list sees it, and it leaves with the history that needs it.
        ended = self._revision if change is Change.DELETED else None
        self._run(
            "INSERT INTO versions (revision, kind, namespace, name, change, ended, owned, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (self._revision, *place, change.value, ended, owned, body),
        )

    def own(self, revision: int, owned: str | None) -> None:
        """Change who owns the fields of a version: no object changed, so no new version."""
        self._run("UPDATE versions SET owned = ? WHERE revision = ?", (owned, revision))

    def link(self, place: Place, owners: set[str]) -> None:
        """Make an object a dependent of these uids."""
        for owner in owners:
            self._run("INSERT OR IGNORE INTO dependents VALUES (?, ?, ?, ?)", (owner, *place))

    def unlink(self, place: Place, owners: set[str]) -> None:
        """Make an object no dependent of these uids any more."""
        for owner in owners:
            self._run(
                "DELETE FROM dependents WHERE owner = ? AND kind = ? AND namespace = ? AND name = ?", (owner, *place)
            )

    def _sweep(self) -> None:
        floor = self._revision - self._history
        if floor - self._swept < min(_SWEEP, max(1, self._history // 4)):
            return
        self._run("DELETE FROM versions WHERE ended <= ?", (floor,))
        self._run("UPDATE floor SET revision = ?", (floor,))
        self._swept = floor

    def _run(self, sql: str, args: Sequence[Any] = ()) -> None:
        try:
            self._connection.execute(sql, args)
        except sqlite3.Error as error:
            raise _translation(error) from error

    def _undo(self, sql: str) -> None:
        # SQLite has often rolled back by itself (disk full); then there is nothing left to undo.
        if self._connection.in_transaction:
            self._run(sql)


class Store:
    """Both ends of one database: `reading` for the loop, `writing` for the writer (None when opened to read only).

    `path` is the directory, None for a store in memory that one thread uses.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False, history: int) -> None:
        self.in_memory = path is None
        self.reading: Reading
        self.writing: Writing | None = None
        if path is None:
            connection = _connect(":memory:")
            with _translated():
                _lay_out(connection)
            self.writing = self.reading = Writing(connection, history)
            return
        file = path / FILE
        if read_only:
            if not file.exists():
                raise PermanentError("holds no cluster state", where=str(path), fix="check --state")
            self.reading = Reading(_readable(file))
            return
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = _connect(str(file))
        with _translated():
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
            _lay_out(connection)
        self.writing = Writing(connection, history)
        self.reading = Reading(_readable(file))

    def close(self) -> None:
        """Close both connections."""
        self.reading.close()
        if self.writing is not None:
            self.writing.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _translation(error) from error


def _translation(error: sqlite3.Error) -> UnavailableError | PermanentError:
    if isinstance(error, sqlite3.OperationalError):
        return UnavailableError(f"the cluster store refused: {error}", fix="check the disk of --state")
    return PermanentError(f"the cluster store is broken: {error}", fix="restore --state from a backup")


def _connect(target: str) -> sqlite3.Connection:
    with _translated():
        # Transactions are ours (isolation_level None); the writer's thread changes from commit to commit.
        connection = sqlite3.connect(target, timeout=10, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA cache_size = -8000")
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection


def _readable(file: Path) -> sqlite3.Connection:
    connection = _connect(str(file))
    with _translated():
        connection.execute("PRAGMA query_only = ON")
        _check_format(connection, file)
    return connection


def _lay_out(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;")
    elif version != FORMAT:
        _check_format(connection, Path(FILE))


def _check_format(connection: sqlite3.Connection, file: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != FORMAT:
        raise PermanentError(
            f"state of format {version}, this program reads {FORMAT}",
            where=str(file),
            fix="use the version that wrote it",
        )
