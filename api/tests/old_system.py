"""The old system's double: Flask on a SQLite file, checking nothing, as the MVP did.

    python -m tests.old_system FILE PORT

Columns and routes are the brief's. `/list` gives ids and statuses alone. While the file
FILE.frozen exists, what writes is refused with 503: the switch that a cut-over needs.
"""

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, g, jsonify, request

TABLE = """
CREATE TABLE IF NOT EXISTS payments (
  id INTEGER PRIMARY KEY, status VARCHAR(10), data JSON, payment FLOAT
)
"""

app = Flask(__name__)


def database() -> sqlite3.Connection:
    """Returns the request's connection."""
    if "database" not in g:
        g.database = sqlite3.connect(app.config["FILE"])
        g.database.row_factory = sqlite3.Row
    connection: sqlite3.Connection = g.database
    return connection


@app.teardown_appcontext
def close(_error: BaseException | None) -> None:
    """Closes it."""
    if "database" in g:
        g.pop("database").close()


@app.before_request
def refuse_while_frozen() -> None:
    """Refuses what writes while the switch is set."""
    if request.method != "GET" and Path(f"{app.config['FILE']}.frozen").exists():
        abort(503)


def write(sql: str, values: dict[str, Any]) -> int | None:
    """Runs a statement and commits; returns the new row's id."""
    connection = database()
    with connection:
        return connection.execute(sql, values).lastrowid


def read(id: int) -> dict[str, Any]:
    """Returns a payment, or fails with 500, as the old code did where there is none."""
    row = database().execute("SELECT * FROM payments WHERE id = ?", (id,)).fetchone()
    return dict(row) | {"data": json.loads(row["data"])}


@app.post("/create")
def create() -> Response:
    """Makes a payment of whatever was sent."""
    body = request.get_json()
    values = {name: body.get(name) for name in ("id", "status", "payment")}
    values["data"] = json.dumps(body.get("data"))
    id = write("INSERT INTO payments VALUES (:id, :status, :data, :payment)", values)
    return jsonify(read(id or 0))


@app.put("/update/<int:id>")
def update(id: int) -> Response:
    """Sets a status, any status."""
    status = request.get_json().get("status")
    write("UPDATE payments SET status = :status WHERE id = :id", {"status": status, "id": id})
    return jsonify(read(id))


@app.delete("/delete/<int:id>")
def delete(id: int) -> Response:
    """Removes a payment."""
    payment = read(id)
    write("DELETE FROM payments WHERE id = :id", {"id": id})
    return jsonify(payment)


@app.get("/list")
def list_all() -> Response:
    """Answers all payments."""
    rows = database().execute("SELECT id, status FROM payments")
    return jsonify([dict(row) for row in rows])


@app.get("/status")
def status() -> str:
    """Says that the process answers."""
    return "ok"


if __name__ == "__main__":
    app.config["FILE"] = sys.argv[1]
    with sqlite3.connect(sys.argv[1]) as made:
        made.execute(TABLE)
    made.close()
    app.run(port=int(sys.argv[2]), threaded=True)
