"""The old system's double: Flask on a SQLite file, as the published MVP is.

    python -m tests.old_system FILE PORT

The MVP's model is `class Payment(db.Model)` with an id and a status of ten characters: its table is
called `payment`, has these two columns, and holds whatever status it was sent, or none. While the
file FILE.frozen exists, what writes gets 503: the switch that a cut-over needs.
"""

import sqlite3
import sys
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, g, jsonify, request

# As Flask-SQLAlchemy makes it.
TABLE = """
CREATE TABLE IF NOT EXISTS payment (
\tid INTEGER NOT NULL,
\tstatus VARCHAR(10),
\tPRIMARY KEY (id)
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
    return dict(database().execute("SELECT * FROM payment WHERE id = ?", (id,)).fetchone())


@app.post("/create")
def create() -> Response:
    """Creates a payment; of what was sent, only the status is kept."""
    status = request.get_json().get("status")
    id = write("INSERT INTO payment (status) VALUES (:status)", {"status": status})
    return jsonify(read(id or 0))


@app.put("/update/<int:id>")
def update(id: int) -> Response:
    """Sets a status, any status."""
    status = request.get_json().get("status")
    write("UPDATE payment SET status = :status WHERE id = :id", {"status": status, "id": id})
    return jsonify(read(id))


@app.delete("/delete/<int:id>")
def delete(id: int) -> Response:
    """Removes a payment."""
    payment = read(id)
    write("DELETE FROM payment WHERE id = :id", {"id": id})
    return jsonify(payment)


@app.get("/list")
def list_all() -> Response:
    """Answers all payments."""
    rows = database().execute("SELECT id, status FROM payment")
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
