"""`python -m example_app`: start PostgreSQL, make the data once, and serve the app."""

from __future__ import annotations

import logging
import signal
import socket
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

import click
from sqlalchemy import URL, make_url
from werkzeug.debug import DebuggedApplication
from werkzeug.serving import make_server

from . import create_app
from .extensions import db
from .seeding import prepare
from .server import DEFAULT_FOLDER, embedded_server

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@click.command()
@click.option("--host", envvar="FLASK_RUN_HOST", default="127.0.0.1", show_default=True)
@click.option("--port", envvar="FLASK_RUN_PORT", type=int, help="[default: 5000, or a free one]")
@click.option(
    "--database-url",
    envvar="DATABASE_URL",
    help="An empty database on a PostgreSQL of your own. [default: start an embedded one]",
)
@click.option(
    "--data",
    envvar="PLANWATCH_EXAMPLE_DATA",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Where the embedded PostgreSQL keeps its data.",
)
@click.option(
    "--scale",
    envvar="PLANWATCH_EXAMPLE_SCALE",
    type=click.FloatRange(min=0.001),
    default=1,
    show_default=True,
    help="How much data to make at the first start: 0.5 is half of it.",
)
def main(host: str, port: int | None, database_url: str | None, data: Path, scale: float) -> None:
    """Start the example app of Flask-PlanWatch. Ctrl-C stops it and its database."""
    logging.basicConfig(format="\n%(levelname)s %(name)s\n%(message)s", level=logging.INFO)
    # A line for each picture and style sheet would bury what PlanWatch says.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    for number in _STOP_SIGNALS:
        signal.signal(number, _interrupt)
    try:
        if not database_url:
            click.echo(f"Starting PostgreSQL on the data in {data} …")
        with nullcontext(make_url(database_url)) if database_url else embedded_server(data) as url:
            _serve(url, host, port, scale)
    except KeyboardInterrupt:
        pass
    click.echo("\nStopped.")


def _serve(url: URL, host: str, port: int | None, scale: float) -> None:
    app = create_app(url)
    with app.app_context():
        prepare(scale)
    server = make_server(
        host, _free_port(host) if port is None else port, DebuggedApplication(app), threaded=True
    )
    click.echo(
        f"\nOpen http://{host}:{server.port} and choose a story. PlanWatch's findings appear on "
        "the page,\nin its toolbar, and here. Ctrl-C stops everything."
    )
    try:
        server.serve_forever()
    finally:
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()


def _free_port(host: str) -> int:
    """Return 5000 as Flask would, or any port if something else listens there."""
    for port in (5000, 0):
        try:
            with socket.create_server((host, port)) as probe:
                free: int = probe.getsockname()[1]
                return free
        except OSError:
            if port == 0:
                raise
    raise AssertionError("unreachable")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Unwind on either signal, also where a script started us in the background.

    A terminal and tox may both send one: a second must not interrupt the unwinding.
    """
    for other in _STOP_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
