"""openapi-generator's client for Python."""

import os
from decimal import Decimal

import openapi_client as api

configuration = api.Configuration(host=os.environ["URL"], access_token=os.environ["KEY"])


def exact(payment: float | None) -> Decimal | None:
    """Returns a payment's value exactly: a double's shortest form is what the service sent."""
    return None if payment is None else Decimal(str(payment)).quantize(Decimal("0.01"))


def problem(error: api.ApiException) -> api.Problem:
    assert isinstance(error.data, api.Problem)
    return error.data


with api.ApiClient(configuration) as client:
    payments, old_routes = api.PaymentsApi(client), api.OldRoutesApi(client)

    made = []
    for value in ("0.10", "12345.67", "99999.99"):
        new = api.PaymentInput(payment=api.Value(value))
        made.append(payments.create_payment(new, idempotency_key=f"key-{value}"))
        print("create", made[-1].id, exact(made[-1].payment), made[-1].status.value)

    again = payments.create_payment(
        api.PaymentInput(payment=api.Value("0.10")), idempotency_key="key-0.10"
    )
    print("replay", again.id)

    cursor = None
    while True:
        page = payments.list_payments(limit=2, cursor=cursor)
        print("page", *(exact(one.payment) for one in page.items))
        cursor = page.next
        if cursor is None:
            break

    consume = api.StatusChange(status=api.Status.CONSUMED)
    consumed = payments.update_payment(made[0].id, consume)
    print("consume", consumed.status.value, consumed.consumed_by)
    try:
        payments.update_payment(made[0].id, consume)
    except api.ApiException as error:
        print("conflict", error.status, problem(error).type, problem(error).consumed_by)

    rest = payments.consume_payments(api.ConsumptionInput(limit=10))
    print("consumption", *(exact(one.payment) for one in rest.items))

    payments.delete_payment(made[0].id)
    try:
        payments.read_payment(made[0].id)
    except api.ApiException as error:
        print("deleted", error.status, problem(error).type)

    try:
        payments.create_payment(
            api.PaymentInput(payment=api.Value("0.20")), idempotency_key="key-0.10"
        )
    except api.ApiException as error:
        print("reused", error.status, problem(error).type, problem(error).payment_id)

    old = old_routes.old_create(api.OldPaymentInput(payment=api.OldValue("0.10")))
    print("old", exact(old.payment), old.status.value)
