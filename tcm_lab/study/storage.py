"""A study's database: opening it, its table of claims, and one-line messages for its errors."""

from __future__ import annotations

import os
import platform
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    inspect,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

from tcm_lab.errors import LabError

HEARTBEAT_S = 15
_GRACE_S = 60
_LOCK_WAIT_S = 60
_SAME_START_S = 2.0  # boot time itself may jitter by a second

CLAIMS = Table(
    "tcm_lab_claims",
    MetaData(),
    Column("study_id", Integer, primary_key=True, autoincrement=False),
    Column("key", String(64), primary_key=True),
    Column("number", Integer, nullable=False),
)
"""The trial that holds each training; the key is unique within a study."""


def open_storage(url: str) -> RDBStorage:
    """Open a database, creating Optuna's tables and ours in an empty one.

    Args:
        url: address as SQLAlchemy accepts it: ``sqlite:///…`` or ``postgresql+psycopg://…``.

    Raises:
        LabError: it can't be opened, belongs to another program, or was made by another version
            of Optuna.
    """
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        options = {"connect_args": {"timeout": _LOCK_WAIT_S}}
    with storage_errors(url), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        engine = create_engine(url, **options)
        _refuse_others(engine, url)
        engine.dispose()
        try:
            storage = RDBStorage(
                url,
                engine_kwargs=options,
                heartbeat_interval=HEARTBEAT_S,
                grace_period=_GRACE_S,
            )
        except RuntimeError as error:  # another revision of the schema
            is_older = "storage upgrade" in str(error)
            fix = "optuna storage upgrade --storage URL" if is_older else "pip install -U optuna"
            raise LabError(
                f"{shown(url)}: made by another version of Optuna than the installed "
                f"{optuna.__version__}. Run: {fix}"
            ) from error
        if url.startswith("sqlite"):
            _one_at_a_time(storage)
        with storage.engine.begin() as connection:
            connection.execute(CreateTable(CLAIMS, if_not_exists=True))
    return storage


def refuse_missing(url: str) -> None:
    """Refuse the address of an SQLite file that does not exist, since opening would create it.

    Raises:
        LabError: there is no such file, or the address cannot be read.
    """
    with storage_errors(url):
        parsed = make_url(url)
        is_file = parsed.get_backend_name() == "sqlite" and "uri" not in parsed.query
        if is_file and not Path(parsed.database or "").is_file():
            raise LabError(f"{shown(url)}: there is no such file. Give the database of the study.")


def _refuse_others(engine: Engine, url: str) -> None:
    """Raise LabError if a database holds tables, but no studies."""
    tables = inspect(engine).get_table_names()
    if tables and not set(tables) >= {"studies", "trials", "version_info"}:
        raise LabError(
            f"{shown(url)}: belongs to another program (its tables: "
            f"{', '.join(sorted(tables)[:3])}). Give an empty database with --storage, or another "
            "folder."
        )


def _one_at_a_time(storage: RDBStorage) -> None:
    """Make every transaction hold SQLite's lock from its first statement.

    SQLite has no SELECT … FOR UPDATE, and Python's driver opens a transaction only at the first
    change. Without the lock, two workers that read the same queued trial would both take it.
    """
    storage.engine.dispose()  # existing connections would continue without the lock

    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver leaves BEGIN to us
        # With a write-ahead log, readers such as optuna-dashboard do not block workers. Processes
        # share the log through memory, so the file must be on a local disk; several machines need
        # a server.
        connection.execute("PRAGMA journal_mode=WAL")
        # A killed process loses nothing. A power cut may undo the last statements; finished
        # trainings are then found again by their records, which are synced files.
        connection.execute("PRAGMA synchronous=NORMAL")

    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(storage.engine, "connect", connected)
    event.listen(storage.engine, "begin", begun)


def close_storage(storage: RDBStorage) -> None:
    """Close every connection."""
    storage.remove_session()
    storage.engine.dispose()


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn errors of the database into one-line messages.

    Raises:
        LabError: a driver is missing, the server can't be reached, the file can't be written, or
            it stays locked. Finished work is in the database; the study can be resumed.
    """
    try:
        yield
    except ImportError:
        if not url.startswith("postgres"):
            raise
        raise LabError(
            f"{shown(url)}: the PostgreSQL driver is missing. pip install 'tcm-lab[postgres]', and "
            "write postgresql+psycopg://…"
        ) from None
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error) as error:
        raise LabError(f"{shown(url)}: {_explain(error)}") from error
    except OSError as error:
        if not url.startswith("sqlite"):
            raise
        raise LabError(f"{error.filename or shown(url)}: {error.strerror or error}.") from error


def shown(url: str) -> str:
    """Return an address without its password."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            return f"sqlite:///{parsed.database}"
        return parsed.render_as_string(hide_password=True)
    except ArgumentError:
        return url


_FIXES = {
    "locked": "another program holds the file; close it and rerun the command",
    "readonly": "the file or its folder is not writable; fix that or choose another with --out",
    "unable to open": "its folder is not writable; fix that or choose another with --out",
    "full": "the disk is full; free some space and rerun the command",
    "Could not parse": "write sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE",
    "Can't load plugin": "write sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE",
    "not a database": "the file is damaged or of another kind; move it away or choose another",
    "connect": "start the server or correct the address, and rerun the command",
}


def _explain(error: Exception) -> str:
    cause = error.__cause__ or error
    original = str(getattr(cause, "orig", None) or cause).strip()
    problem = original.splitlines()[0] if original else type(cause).__name__
    fix = next((fix for word, fix in _FIXES.items() if word in problem), "fix that and rerun")
    return f"{problem.rstrip('.')}; {fix}."


def this_process() -> str:
    """Return a name for this process that is unique across machines."""
    process = psutil.Process()
    return f"{_here()}|{process.pid}|{_started_s(process):.2f}"


def is_dead(process: str) -> bool:
    """Return whether a named process ran here and has ended; False for other machines."""
    here, pid, started, *_ = process.split("|")
    if here != _here():
        return False
    try:
        found = psutil.Process(int(pid))
        zombie = found.status() == psutil.STATUS_ZOMBIE
        return zombie or abs(_started_s(found) - float(started)) > _SAME_START_S
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _here() -> str:
    """Return a name for this machine and container: pids mean nothing outside a container."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  # not a path: pid:[…]
    except OSError:
        namespace = ""
    return f"{platform.node()}{namespace}"


def _started_s(process: psutil.Process) -> float:
    """Return a process's start in seconds since boot, which setting the clock does not change."""
    return float(process.create_time() - psutil.boot_time())
