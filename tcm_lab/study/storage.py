"""The database behind a study: opening it, and saying in one message what is wrong with it."""

from __future__ import annotations

import os
import platform
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcm_lab.errors import LabError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

HEARTBEAT_S = 15
GRACE_S = 60
_LOCK_WAIT_S = 60

OnLost = Callable[["Study", "FrozenTrial"], None]


def sqlite_url(file: Path) -> str:
    """Return the address of an SQLite file."""
    return f"sqlite:///{file.absolute()}"


def open_storage(url: str, on_lost: OnLost | None = None) -> RDBStorage:
    """Open a database, making Optuna's tables in an empty one.

    Args:
        url: as SQLAlchemy takes it: ``sqlite:///…`` or ``postgresql+psycopg://…``.
        on_lost: told about every trial whose worker has stopped to give a sign of life.

    Raises:
        LabError: it can't be opened.
    """
    import optuna

    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        options = {"connect_args": {"timeout": _LOCK_WAIT_S}}
    with storage_errors(url), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.RDBStorage(
            url,
            engine_kwargs=options,
            heartbeat_interval=HEARTBEAT_S,
            grace_period=GRACE_S,
            heartbeat_stale_trial_callback=on_lost,
        )
        if url.startswith("sqlite"):
            _one_at_a_time(storage)
    return storage


def _one_at_a_time(storage: RDBStorage) -> None:
    """Let every transaction hold SQLite's lock from its first statement.

    SQLite knows no SELECT … FOR UPDATE, and Python's driver opens a transaction at the first
    change only; so of two workers that read the same queued trial, both would take it.
    """
    from sqlalchemy import event

    storage.engine.dispose()  # connections of before would go on without

    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver leaves BEGIN to us
        # A log beside the file: who only looks on, such as optuna-dashboard, keeps nobody waiting.
        # Whoever closes the file last puts the log into it. Processes share the log by memory, so
        # the file belongs on a disk of this machine; several machines need a server.
        connection.execute("PRAGMA journal_mode=WAL")
        # A killed process loses nothing. A power cut may undo the last statements; what was
        # trained is then found again by its record, which is a file that was synced.
        connection.execute("PRAGMA synchronous=NORMAL")

    def begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(storage.engine, "connect", connected)
    event.listen(storage.engine, "begin", begun)


def close_storage(storage: RDBStorage) -> None:
    """Give every connection back."""
    storage.remove_session()
    storage.engine.dispose()


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn whatever the database raises into one message.

    Raises:
        LabError: a driver is missing, the server can't be reached, the file can't be written, or
            it stays locked. What was finished is in the database; the study can go on afterwards.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

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
        raise LabError(f"{shown(url)}: {_say(error)}") from error
    except OSError as error:
        if not url.startswith("sqlite"):
            raise
        raise LabError(f"{shown(url)}: {error.strerror or error}.") from error


def shown(url: str) -> str:
    """Return an address without its password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


def _say(error: Exception) -> str:
    cause = error.__cause__ or error
    original = getattr(cause, "orig", None) or cause
    told = str(original).strip().splitlines()[0] if str(original).strip() else type(cause).__name__
    fixes = {
        "locked": "another program holds the file; close it and call again",
        "readonly": "the file or its folder may not be written; mend that or name another by --out",
        "unable to open": "its folder may not be written; mend that or name another by --out",
        "full": "the disk is full; free some space and call again",
        "Could not parse": "write sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE",
        "Can't load plugin": "write sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE",
        "not a database": "the file is damaged or something else; move it away or name another",
        "connect": "start the server or mend the address, and call again",
    }
    fix = next((fix for word, fix in fixes.items() if word in told), "mend that and call again")
    return f"{told.rstrip('.')}; {fix}."


def this_process() -> str:
    """Return a name of this process that tells it from any other on any machine."""
    return f"{_here()}|{os.getpid()}|{_started(os.getpid())}"


def is_dead(process: str) -> bool:
    """Say whether a named process ran here and does no longer; False for other machines."""
    here, pid, started = process.split("|")
    if here != _here():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return _started(int(pid)) != started


def _here() -> str:
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  # not a path: pid:[…]
    except OSError:
        namespace = ""
    return f"{platform.node()}{namespace}"


def _started(pid: int) -> str:
    """Return when a process began, by the kernel's clock; pids are used again, this is not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rsplit(")", 1)[1].split()
    return "dead" if fields[0] == "Z" else fields[19]
