from flask import Flask
from json_api import db, planwatch
from sqlalchemy import text


def test_planwatch_is_watching(app: Flask) -> None:
    with app.app_context():
        db.session.execute(text("SELECT FROM \"user\" WHERE lower(email) = 'x'"))
        db.session.rollback()
    assert planwatch.flush(30, app)
    assert planwatch.findings(app)
    planwatch.clear(app)
