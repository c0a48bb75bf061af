"""Peer (b): the MVP's Flask and SQLAlchemy, under gunicorn and on the service's own PostgreSQL.

    DATABASE_URL=postgresql://… WORKERS=5 THREADS=8 PORT=8002 python load/peers/gunicorn_postgres.py

Workers are `gthread`: `sync` ones close the connection after each answer, and one of them does
nothing while it waits for the database. The driver is psycopg 3, with a connection a thread. It
checks that a key is live, and not its scopes. The port opens before the workers have started: wait
for an answer before measuring.
"""

import hashlib
import os
import sys
from datetime import UTC
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, g, jsonify, request
from sqlalchemy import create_engine, func, make_url, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import scoped_session, sessionmaker

from models import ApiKey, Payment

# Twice the cores and one more is gunicorn's own advice.
WORKERS = int(os.environ.get("WORKERS", 2 * (os.cpu_count() or 1) + 1))
THREADS = int(os.environ.get("THREADS", "8"))

app = Flask(__name__)
engine = create_engine(
    make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg"),
    pool_size=THREADS,
    max_overflow=0,
)
session = scoped_session(sessionmaker(engine, expire_on_commit=False))


def as_dict(payment: Payment) -> dict[str, Any]:
    """Returns what is answered."""
    return {
        "id": payment.id,
        "status": payment.status,
        "data": payment.data,
        "payment": None if payment.payment is None else float(payment.payment),
        "created_at": payment.created_at.astimezone(UTC).isoformat(),
        "updated_at": payment.updated_at.astimezone(UTC).isoformat(),
    }


@app.before_request
def check_key() -> None:
    """Refuses who has no live key."""
    key = request.authorization.token if request.authorization else None
    g.client = session.scalar(
        select(ApiKey.client).where(
            ApiKey.hash == hashlib.sha256((key or "").encode()).digest(),
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
        )
    )
    if g.client is None:
        abort(401)


@app.teardown_appcontext
def remove_session(_error: BaseException | None) -> None:
    """Gives the request's connection back."""
    session.remove()


@app.post("/v1/payments")
def create() -> tuple[Response, int]:
    """Inserts a payment, or answers the first one of this Idempotency-Key."""
    key = request.headers.get("Idempotency-Key")
    payment = session.scalar(
        insert(Payment)
        .values(
            payment=request.json["payment"],
            data=request.json.get("data", {}),
            created_by=g.client,
            idempotency_key=key,
        )
        .on_conflict_do_nothing(
            index_elements=["created_by", "idempotency_key"],
            index_where=Payment.idempotency_key.is_not(None),
        )
        .returning(Payment)
    )
    session.commit()
    if payment is None:
        payment = session.scalars(
            select(Payment).filter_by(created_by=g.client, idempotency_key=key)
        ).one()
    return jsonify(as_dict(payment)), 201


@app.get("/v1/payments/<int:id>")
def read(id: int) -> Response:
    """Answers one payment."""
    payment = session.scalar(select(Payment).where(Payment.id == id, Payment.deleted_at.is_(None)))
    return jsonify(as_dict(payment or abort(404)))


@app.get("/v1/payments")
def list_page() -> Response:
    """Answers a page of payments, oldest first."""
    page = session.scalars(
        select(Payment)
        .where(Payment.deleted_at.is_(None))
        .order_by(Payment.created_at, Payment.id)
        .limit(min(request.args.get("limit", 100, int), 1000))
        .offset(request.args.get("offset", 0, int))
    )
    return jsonify({"items": [as_dict(payment) for payment in page]})


if __name__ == "__main__":
    bind = f"127.0.0.1:{os.environ.get('PORT', '8002')}"
    command = f"-m gunicorn --bind {bind} --worker-class gthread --workers {WORKERS}"
    command += f" --threads {THREADS} --pythonpath {Path(__file__).parent} gunicorn_postgres:app"
    os.execv(sys.executable, [sys.executable, *command.split()])  # noqa: S606
