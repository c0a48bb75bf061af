"""Peer (c): FastAPI, SQLAlchemy's asyncio and asyncpg on the service's own PostgreSQL.

    DATABASE_URL=postgresql://… WORKERS=1 PORT=8003 python load/peers/fastapi_async.py

Written as its documentation would have it, and no slower: a session a request, shared by the key's
check and the route; response models, which pydantic writes as JSON itself; uvicorn with uvloop and
httptools and no line of log a request. It checks that a key is live, and not its scopes.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Query
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, make_url, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from models import ApiKey, Payment

app = FastAPI()
engine = create_async_engine(
    make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg"),
    pool_size=int(os.environ.get("POOL_SIZE", "20")),
    max_overflow=0,
)
new_session = async_sessionmaker(engine, expire_on_commit=False)


class NewPayment(BaseModel):
    """The body of a creation."""

    model_config = ConfigDict(extra="forbid")

    payment: Annotated[Decimal, Field(ge=0, max_digits=7, decimal_places=2)]
    data: Any = Field(default_factory=dict)


class PaymentOut(BaseModel):
    """A payment as it is answered."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    status: Literal["inserted", "consumed"]
    data: Any
    payment: float | None
    created_at: datetime
    updated_at: datetime


class Page(BaseModel):
    """A part of the list."""

    model_config = ConfigDict(from_attributes=True)

    items: list[PaymentOut]


async def get_session() -> AsyncIterator[AsyncSession]:
    """Lends a session for one request."""
    async with new_session() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]


async def get_client(
    session: Session, bearer: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]
) -> str:
    """Returns the name of the client whose live key this is."""
    client = await session.scalar(
        select(ApiKey.client).where(
            ApiKey.hash == hashlib.sha256(bearer.credentials.encode()).digest(),
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
        )
    )
    if client is None:
        raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})
    return client


Client = Annotated[str, Depends(get_client)]


@app.post("/v1/payments", status_code=201, response_model=PaymentOut)
async def create(
    new: NewPayment,
    session: Session,
    client: Client,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> Payment:
    """Inserts a payment, or answers the first one of this Idempotency-Key."""
    payment = await session.scalar(
        insert(Payment)
        .values(
            payment=new.payment, data=new.data, created_by=client, idempotency_key=idempotency_key
        )
        .on_conflict_do_nothing(
            index_elements=["created_by", "idempotency_key"],
            index_where=Payment.idempotency_key.is_not(None),
        )
        .returning(Payment)
    )
    await session.commit()
    if payment is None:
        first = select(Payment).filter_by(created_by=client, idempotency_key=idempotency_key)
        payment = (await session.scalars(first)).one()
    return payment


@app.get("/v1/payments/{id}", response_model=PaymentOut)
async def read(id: int, session: Session, client: Client) -> Payment:
    """Answers one payment."""
    payment = await session.scalar(
        select(Payment).where(Payment.id == id, Payment.deleted_at.is_(None))
    )
    if payment is None:
        raise HTTPException(404)
    return payment


@app.get("/v1/payments", response_model=Page)
async def list_page(
    session: Session,
    client: Client,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> dict[str, Sequence[Payment]]:
    """Answers a page of payments, oldest first."""
    page = await session.scalars(
        select(Payment)
        .where(Payment.deleted_at.is_(None))
        .order_by(Payment.created_at, Payment.id)
        .limit(limit)
        .offset(offset)
    )
    return {"items": page.all()}


if __name__ == "__main__":
    uvicorn.run(
        "fastapi_async:app",
        port=int(os.environ.get("PORT", "8003")),
        workers=int(os.environ.get("WORKERS", "1")),
        loop="uvloop",
        http="httptools",
        access_log=False,
    )
