import logging
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from json_api import Base, create_app, db, planwatch

logging.getLogger("flask_planwatch").setLevel(logging.CRITICAL)


@pytest.fixture(scope="session")
def app() -> Iterator[Flask]:
    app = create_app(
        TESTING=True,
        PLANWATCH_SAMPLE_INTERVAL=0,
        PLANWATCH_INSPECTIONS_PER_MINUTE=None,
        PLANWATCH_STATEMENT_TIMEOUT_MS=30_000,
    )
    with app.app_context():
        Base.metadata.create_all(db.engine)
    yield app
    with app.app_context():
        Base.metadata.drop_all(db.engine)
        db.engine.dispose()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(autouse=True)
def no_findings(app: Flask) -> Iterator[None]:
    assert planwatch.flush(30, app)
    planwatch.clear(app)
    before = planwatch.stats(app)
    yield
    assert planwatch.flush(30, app)
    after = planwatch.stats(app)
    assert after["dropped"] == before["dropped"], "not all statements were inspected"
    assert after["skipped"] == before["skipped"], "not all statements were inspected"
    found = "\n".join(finding.message for finding in planwatch.findings(app))
    assert not found, found
