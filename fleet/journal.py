"""What this controller did and saw: one SQLite file in the project's ``.wain``.

The journal is a hint and the hosts are the truth: every command that acts reads the hosts
first. What is written here survives a crash of the machine (WAL, ``synchronous=FULL``) and is
never rewritten: roll-outs, each host's steps with their outputs, orders from other terminals,
rehearsals. Only "what a host last reported" (see `fleet.reported`) is replaced by newer reports.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from images.errors import WainError

# "wain" in the file's header: another program's database is recognised before it is touched.
APPLICATION_ID = 0x7761696E
SCHEMA = 1
# How long another process's transaction is waited for. Seconds.
BUSY = 10.0

_TABLES = """
CREATE TABLE rollouts (
  number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, image TEXT NOT NULL,
  image_name TEXT NOT NULL, plan_digest TEXT NOT NULL, plan TEXT NOT NULL, who TEXT NOT NULL,
  machine TEXT NOT NULL, reason TEXT NOT NULL, ticket TEXT NOT NULL, started TEXT NOT NULL,
  finished TEXT NOT NULL DEFAULT '', state TEXT NOT NULL, result TEXT NOT NULL DEFAULT '',
  error TEXT NOT NULL DEFAULT '');
CREATE TABLE rollout_hosts (
  rollout INTEGER NOT NULL, host TEXT NOT NULL, wave INTEGER NOT NULL, position INTEGER NOT NULL,
  state TEXT NOT NULL, step TEXT NOT NULL DEFAULT '', image TEXT, previous TEXT,
  generation INTEGER, bytes_sent INTEGER NOT NULL DEFAULT 0,
  bytes_overhead INTEGER NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0,
  error TEXT NOT NULL DEFAULT '', PRIMARY KEY (rollout, host)) WITHOUT ROWID;
CREATE TABLE steps (
  rollout INTEGER NOT NULL, host TEXT NOT NULL, number INTEGER NOT NULL, step TEXT NOT NULL,
  started TEXT NOT NULL, seconds REAL NOT NULL, outcome TEXT NOT NULL, output TEXT NOT NULL,
  PRIMARY KEY (rollout, host, number)) WITHOUT ROWID;
CREATE TABLE orders (
  number INTEGER PRIMARY KEY AUTOINCREMENT, rollout INTEGER NOT NULL, verb TEXT NOT NULL,
  who TEXT NOT NULL, at TEXT NOT NULL);
CREATE TABLE rehearsals (
  number INTEGER PRIMARY KEY AUTOINCREMENT, plan_digest TEXT NOT NULL, image TEXT NOT NULL,
  ok INTEGER NOT NULL, at TEXT NOT NULL, evidence TEXT NOT NULL);
CREATE TABLE quarantine (
  number INTEGER PRIMARY KEY AUTOINCREMENT, image TEXT NOT NULL, verb TEXT NOT NULL,
  reason TEXT NOT NULL, who TEXT NOT NULL, at TEXT NOT NULL);
CREATE TABLE images (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, python TEXT NOT NULL, platform TEXT NOT NULL
  ) WITHOUT ROWID;
CREATE TABLE image_packages (
  package TEXT NOT NULL, version TEXT NOT NULL, image TEXT NOT NULL,
  PRIMARY KEY (package, version, image)) WITHOUT ROWID;
CREATE TABLE hosts (
  name TEXT PRIMARY KEY, image TEXT, previous TEXT, generation INTEGER NOT NULL,
  python TEXT NOT NULL, machine TEXT NOT NULL, libc TEXT NOT NULL, releases TEXT NOT NULL,
  seen TEXT NOT NULL, problem TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE INDEX hosts_by_image ON hosts (image, name);
CREATE INDEX rehearsals_by_plan ON rehearsals (plan_digest);
"""

_ROLLOUT = (
    "number", "kind", "image", "image_name", "plan_digest", "plan", "who", "machine", "reason",
    "ticket", "started", "finished", "state", "result", "error",
)  # fmt: skip

# States of a roll-out. The first three can be gone on with.
RUNNING, PAUSED, INTERRUPTED = "running", "paused", "interrupted"
DONE, ABANDONED = "done", "abandoned"
OPEN = (RUNNING, PAUSED, INTERRUPTED)


class JournalError(WainError):
    """The journal cannot be used: damaged, another program's, another release's, locked, full."""


def now() -> str:
    """The time for people to read; nothing is ever ordered by it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Rollout:
    """One roll-out or rollback as recorded. ``plan`` is the plan's document without its hosts."""

    number: int
    kind: str
    image: str
    image_name: str
    plan_digest: str
    plan: dict[str, Any]
    who: str
    machine: str
    reason: str
    ticket: str
    started: str
    finished: str
    state: str
    result: str
    error: str

    @property
    def id(self) -> str:
        """How people name it: ``r12``."""
        return f"r{self.number}"


@dataclass(frozen=True, slots=True)
class HostRow:
    """What a roll-out knows of one host. ``wave`` counts from 0, -1 is none; sizes in bytes."""

    host: str
    wave: int
    state: str = "untouched"
    step: str = ""
    image: str | None = None
    previous: str | None = None
    generation: int | None = None
    bytes_sent: int = 0
    bytes_overhead: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step on one host: when, how long in seconds, ``ok`` or what went wrong, its output."""

    host: str
    step: str
    started: str
    seconds: float
    outcome: str
    output: str = ""


class Journal:
    """The open journal. One thread uses it; other processes may use the file meanwhile."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open the journal at `path`, created when missing. Raises JournalError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _check_header(path)
            # Outputs of hooks are in it. SQLite gives its other files the mode of this one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise _translated(path, error) from error
        journal = cls(path, connection)
        try:
            journal._prepare()
        except BaseException:
            connection.close()
            raise
        return journal

    def close(self) -> None:
        """Close the file; what was written is on disk already."""
        self._connection.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction; nested use joins the outer one."""
        if self._connection.in_transaction:
            yield self._connection
            return
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            raise _translated(self.path, error) from error
        except BaseException:
            self._undo()
            raise

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a question."""
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise _translated(self.path, error) from error

    # Roll-outs.

    def begin(
        self, *, kind: str, image: str, image_name: str, plan_digest: str,
        plan: Mapping[str, object], who: str, machine: str, hosts: Iterable[HostRow],
        reason: str = "", ticket: str = "",
    ) -> int:  # fmt: skip
        """Record a roll-out and its frozen hosts before the first host is touched."""
        with self.transaction() as db:
            number = db.execute(
                "INSERT INTO rollouts (kind, image, image_name, plan_digest, plan, who, machine,"
                " reason, ticket, started, state) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (kind, image, image_name, plan_digest, json.dumps(plan, sort_keys=True), who,
                 machine, reason, ticket, now(), RUNNING),
            ).lastrowid  # fmt: skip
            assert number is not None
            db.executemany(
                "INSERT INTO rollout_hosts (rollout, host, wave, position, state, image, previous,"
                " generation) VALUES (?,?,?,?,?,?,?,?)",
                [
                    (number, row.host, row.wave, at, row.state, row.image, row.previous,
                     row.generation)
                    for at, row in enumerate(hosts)
                ],
            )  # fmt: skip
        return number

    def set_state(self, number: int, state: str, *, result: str = "", error: str = "") -> None:
        """Record where a roll-out stands; anything but an open state is its end."""
        with self.transaction() as db:
            db.execute(
                "UPDATE rollouts SET state=?, result=?, error=?, finished=? WHERE number=?",
                (state, result, error, "" if state in (RUNNING, PAUSED) else now(), number),
            )

    def abandon_open(self, except_number: int = 0, kind: str = "%") -> None:
        """A new roll-out begins: those (of one kind) whose controller died are over."""
        with self.transaction() as db:
            db.execute(
                "UPDATE rollouts SET state=?, finished=? WHERE state IN (?,?,?) AND number<>?"
                " AND kind LIKE ?",
                (ABANDONED, now(), *OPEN, except_number, kind),
            )

    def record(
        self, number: int, hosts: Iterable[HostRow] = (), steps: Iterable[StepRow] = ()
    ) -> None:
        """Record how hosts stand and steps that ended, in one transaction."""
        hosts, steps = list(hosts), list(steps)
        if not hosts and not steps:
            return
        with self.transaction() as db:
            db.executemany(
                "UPDATE rollout_hosts SET state=?, step=?, image=?, previous=?, generation=?,"
                " bytes_sent=?, bytes_overhead=?, seconds=?, error=? WHERE rollout=? AND host=?",
                [
                    (row.state, row.step, row.image, row.previous, row.generation, row.bytes_sent,
                     row.bytes_overhead, row.seconds, row.error, number, row.host)
                    for row in hosts
                ],
            )  # fmt: skip
            db.executemany(
                "INSERT INTO steps SELECT ?1, ?2, COALESCE(MAX(number), 0) + 1, ?3, ?4, ?5, ?6, ?7"
                " FROM steps WHERE rollout=?1 AND host=?2",
                [
                    (number, step.host, step.step, step.started, step.seconds, step.outcome,
                     step.output)
                    for step in steps
                ],
            )  # fmt: skip

    def rollout(self, number: int) -> Rollout | None:
        """One roll-out, or None."""
        found = self._rollouts("WHERE number=?", (number,))
        return found[0] if found else None

    def last_open(self, kind: str = "%") -> Rollout | None:
        """The newest roll-out, or one of a kind, that is not over."""
        found = self._rollouts(
            "WHERE state IN (?,?,?) AND kind LIKE ? ORDER BY number DESC LIMIT 1", (*OPEN, kind)
        )
        return found[0] if found else None

    def rollouts(self, limit: int = 20) -> list[Rollout]:
        """The newest roll-outs, newest first."""
        return self._rollouts("ORDER BY number DESC LIMIT ?", (limit,))

    def host_rows(self, number: int) -> list[HostRow]:
        """How every host of a roll-out stands, in its frozen order."""
        return [
            HostRow(*row)
            for row in self.rows(
                "SELECT host, wave, state, step, image, previous, generation, bytes_sent,"
                " bytes_overhead, seconds, error FROM rollout_hosts WHERE rollout=?"
                " ORDER BY position",
                (number,),
            )
        ]

    def steps(self, number: int) -> list[StepRow]:
        """All steps of a roll-out, by host and in order."""
        return [
            StepRow(*row)
            for row in self.rows(
                "SELECT host, step, started, seconds, outcome, output FROM steps"
                " WHERE rollout=? ORDER BY host, number",
                (number,),
            )
        ]

    # Orders from other terminals, rehearsals, quarantine.

    def order(self, number: int, verb: str, who: str) -> None:
        """Leave an order (pause, resume, approve, abort) for the process that rolls out."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO orders (rollout, verb, who, at) VALUES (?,?,?,?)",
                (number, verb, who, now()),
            )

    def orders(self, number: int, after: int = 0) -> list[tuple[int, str, str]]:
        """(number, verb, who) of the orders for a roll-out after the one numbered `after`."""
        return self.rows(
            "SELECT number, verb, who FROM orders WHERE rollout=? AND number>? ORDER BY number",
            (number, after),
        )

    def add_rehearsal(self, digest: str, image: str, ok: bool, evidence: object) -> None:
        """Keep the evidence of a rehearsal with the plan it was of."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO rehearsals (plan_digest, image, ok, at, evidence) VALUES (?,?,?,?,?)",
                (digest, image, int(ok), now(), json.dumps(evidence, sort_keys=True)),
            )

    def rehearsal(self, digest: str) -> tuple[bool, str, dict[str, Any]] | None:
        """(passed, when, evidence) of the newest rehearsal of a plan."""
        found = self.rows(
            "SELECT ok, at, evidence FROM rehearsals WHERE plan_digest=?"
            " ORDER BY number DESC LIMIT 1",
            (digest,),
        )
        return (bool(found[0][0]), found[0][1], json.loads(found[0][2])) if found else None

    def set_quarantine(self, image: str, verb: str, reason: str, who: str) -> None:
        """Record that an image was put in (``put``) or taken out of (``clear``) quarantine."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO quarantine (image, verb, reason, who, at) VALUES (?,?,?,?,?)",
                (image, verb, reason, who, now()),
            )

    def quarantined(self) -> dict[str, str]:
        """image id -> why, of the images that are in quarantine now."""
        newest = self.rows(
            "SELECT image, verb, reason FROM quarantine WHERE number IN"
            " (SELECT MAX(number) FROM quarantine GROUP BY image)"
        )
        return {image: reason for image, verb, reason in newest if verb == "put"}

    # The file.

    def _rollouts(self, where: str, values: Sequence[object]) -> list[Rollout]:
        rows = self.rows(
            f"SELECT {', '.join(_ROLLOUT)} FROM rollouts {where}",
            values,
        )
        return [
            Rollout(**{**dict(zip(_ROLLOUT, row, strict=True)), "plan": json.loads(row[5])})
            for row in rows
        ]

    def _prepare(self) -> None:
        db = self._connection
        try:
            application = db.execute("PRAGMA application_id").fetchone()[0]
            schema = db.execute("PRAGMA user_version").fetchone()[0]
            empty = not db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            if not empty:
                self._check(application, schema)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            if empty:
                with self.transaction():
                    # Another process may have come first while this one waited.
                    if not db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                        for statement in _TABLES.split(";"):
                            db.execute(statement)
                        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                        db.execute(f"PRAGMA user_version={SCHEMA}")
        except sqlite3.Error as error:
            raise _translated(self.path, error) from error

    def _check(self, application: int, schema: int) -> None:
        if application != APPLICATION_ID:
            raise JournalError(str(self.path), "is a database of another program", "move it away")
        if schema != SCHEMA:
            raise JournalError(
                str(self.path), f"has schema {schema}, this wain reads schema {SCHEMA}",
                "use the release of wain that wrote it, or move the file away: "
                "`wain fleet status` reads everything the hosts know anew",
            )  # fmt: skip

    def _undo(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _check_header(path: Path) -> None:
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(16) != b"SQLite format 3\0":
                raise JournalError(str(path), "is no journal of wain", "move it away")


def _translated(path: Path, error: Exception) -> JournalError:
    text = str(getattr(error, "strerror", None) or error)
    if "locked" in text or "busy" in text:
        return JournalError(str(path), f"another process has kept it locked for {BUSY:.0f} s")
    if "malformed" in text or "not a database" in text or "corrupt" in text or "no such" in text:
        return JournalError(
            str(path), f"is damaged ({text})",
            "move it away with its -wal and -shm: `wain fleet status` reads the hosts anew",
        )  # fmt: skip
    return JournalError(str(path), text)
