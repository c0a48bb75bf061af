"""The service's tables as SQLAlchemy sees them; `api/migrations` is where they are made."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ARRAY, BigInteger, DateTime, FetchedValue, LargeBinary, Numeric, Text
from sqlalchemy.dialects.postgresql import ENUM, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """What the models share: types of columns that follow from the types of Python."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as a plain attribute
        datetime: DateTime(timezone=True),
        str: Text,
        int: BigInteger,
        list[str]: ARRAY(Text),
        bytes: LargeBinary,
    }


class Payment(Base):
    """A payment. What the database fills in comes back with the INSERT (RETURNING)."""

    __tablename__ = "payments"

    id: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(
        ENUM("inserted", "consumed", name="payment_status", create_type=False),
        server_default=FetchedValue(),
    )
    data: Mapped[Any] = mapped_column(JSONB)
    payment: Mapped[Decimal | None] = mapped_column(Numeric(7, 2))
    created_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())
    created_by: Mapped[str]
    updated_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())
    # Not read with the row: no answer holds them.
    deleted_at: Mapped[datetime | None] = mapped_column(deferred=True)
    idempotency_key: Mapped[str | None] = mapped_column(deferred=True)


class ApiKey(Base):
    """A client's key, known by its SHA-256 alone."""

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(primary_key=True)
    client: Mapped[str]
    hash: Mapped[bytes]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
