"""Peer (a): the MVP as it was described: Flask, SQLAlchemy, a SQLite file, the development server.

    DATABASE_URL=sqlite:////tmp/mvp.db API_KEY=secret PORT=8001 python load/peers/mvp.py

A commit a request, one process with a thread a connection, a list without a limit, a line of log a
request. Two things were added for measuring: a bearer key is checked, so that it does what the
others do (the one in API_KEY is put into the table at start), and GET /read/<id>.
"""

import hashlib
import os
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, abort, jsonify, request
from sqlalchemy import JSON, Enum, create_engine, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    mapped_column,
    scoped_session,
    sessionmaker,
)

app = Flask(__name__)
engine = create_engine(os.environ.get("DATABASE_URL", "sqlite:///payments.db"))
session = scoped_session(sessionmaker(engine))


class Base(DeclarativeBase):
    """What the models share."""


class Payment(Base):
    """A payment."""

    __tablename__ = "payments"

    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(Enum("inserted", "consumed"), default="inserted")
    data: Mapped[Any] = mapped_column(JSON)
    payment: Mapped[float | None]
    created_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))
    updated_at: Mapped[datetime] = mapped_column(
        default=lambda: datetime.now(UTC), onupdate=lambda: datetime.now(UTC)
    )

    def as_dict(self) -> dict[str, Any]:
        """Returns what is answered."""
        return {
            "id": self.id,
            "status": self.status,
            "data": self.data,
            "payment": self.payment,
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
        }


class ApiKey(Base):
    """A key, known by its SHA-256."""

    __tablename__ = "api_keys"

    hash: Mapped[bytes] = mapped_column(primary_key=True)


@app.before_request
def check_key() -> None:
    """Refuses who has no key; the healthcheck needs none."""
    if request.endpoint == "status":
        return
    key = request.authorization.token if request.authorization else None
    if session.get(ApiKey, hashlib.sha256((key or "").encode()).digest()) is None:
        abort(401)


@app.teardown_appcontext
def remove_session(_error: BaseException | None) -> None:
    """Gives the request's connection back."""
    session.remove()


def find(id: int) -> Payment:
    """Returns the payment, or answers 404."""
    return session.get(Payment, id) or abort(404)


@app.post("/create")
def create() -> tuple[Response, int]:
    """Inserts a payment."""
    payment = Payment(payment=request.json["payment"], data=request.json.get("data", {}))
    session.add(payment)
    session.commit()
    return jsonify(payment.as_dict()), 201


@app.get("/read/<int:id>")
def read(id: int) -> Response:
    """Answers one payment."""
    return jsonify(find(id).as_dict())


@app.put("/update/<int:id>")
def update(id: int) -> Response:
    """Sets a payment's status."""
    payment = find(id)
    payment.status = request.json["status"]
    session.commit()
    return jsonify(payment.as_dict())


@app.get("/list")
def list_all() -> Response:
    """Answers all payments."""
    return jsonify([payment.as_dict() for payment in session.scalars(select(Payment))])


@app.delete("/delete/<int:id>")
def delete(id: int) -> Response:
    """Deletes a payment."""
    payment = find(id)
    answer = payment.as_dict()
    session.delete(payment)
    session.commit()
    return jsonify(answer)


@app.get("/status")
def status() -> str:
    """Says that the process answers."""
    return "ok"


if __name__ == "__main__":
    Base.metadata.create_all(engine)
    session.merge(ApiKey(hash=hashlib.sha256(os.environ["API_KEY"].encode()).digest()))
    session.commit()
    session.remove()
    app.run(port=int(os.environ.get("PORT", "8001")))
