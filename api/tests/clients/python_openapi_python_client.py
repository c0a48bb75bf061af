"""openapi-python-client's client."""

import os
from decimal import Decimal

from payments_client import AuthenticatedClient
from payments_client.api.old_routes import old_create
from payments_client.api.payments import (
    consume_payments,
    create_payment,
    delete_payment,
    list_payments,
    read_payment,
    update_payment,
)
from payments_client.models import (
    ConsumptionInput,
    OldPayment,
    OldPaymentInput,
    Page,
    Payment,
    PaymentInput,
    Problem,
    Status,
    StatusChange,
)
from payments_client.models.consumption import Consumption


def exact(payment: float | None) -> Decimal | None:
    return None if payment is None else Decimal(str(payment)).quantize(Decimal("0.01"))


with AuthenticatedClient(os.environ["URL"], os.environ["KEY"]) as client:
    made = []
    for value in ("0.10", "12345.67", "99999.99"):
        answer = create_payment.sync(
            client=client, body=PaymentInput(value), idempotency_key=f"key-{value}"
        )
        assert isinstance(answer, Payment)
        made.append(answer)
        print("create", answer.id, exact(answer.payment), answer.status.value)

    again = create_payment.sync(
        client=client, body=PaymentInput("0.10"), idempotency_key="key-0.10"
    )
    assert isinstance(again, Payment)
    print("replay", again.id)

    page = list_payments.sync(client=client, limit=2)
    assert isinstance(page, Page)
    print("page", *(exact(one.payment) for one in page.items))
    assert page.next_ is not None
    page = list_payments.sync(client=client, limit=2, cursor=page.next_)
    assert isinstance(page, Page)
    print("page", *(exact(one.payment) for one in page.items))
    assert page.next_ is None

    consume = StatusChange(Status.CONSUMED)
    consumed = update_payment.sync(made[0].id, client=client, body=consume)
    assert isinstance(consumed, Payment)
    print("consume", consumed.status.value, consumed.consumed_by)
    conflict = update_payment.sync(made[0].id, client=client, body=consume)
    assert isinstance(conflict, Problem)
    print("conflict", conflict.status, conflict.type_, conflict.consumed_by)

    rest = consume_payments.sync(client=client, body=ConsumptionInput(limit=10))
    assert isinstance(rest, Consumption)
    print("consumption", *(exact(one.payment) for one in rest.items))

    delete_payment.sync_detailed(made[0].id, client=client)
    missing = read_payment.sync(made[0].id, client=client)
    assert isinstance(missing, Problem)
    print("deleted", missing.status, missing.type_)

    reused = create_payment.sync(
        client=client, body=PaymentInput("0.20"), idempotency_key="key-0.10"
    )
    assert isinstance(reused, Problem)
    print("reused", reused.status, reused.type_, reused.payment_id)

    old = old_create.sync(client=client, body=OldPaymentInput(payment="0.10"))
    assert isinstance(old, OldPayment)
    print("old", exact(old.payment), old.status.value)
