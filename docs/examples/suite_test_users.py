from flask.testing import FlaskClient


def test_index_page(client: FlaskClient) -> None:
    assert client.get("/").status_code == 200


def test_find_user(client: FlaskClient) -> None:
    assert client.get("/users/nobody@example.com").json == {"id": None}
