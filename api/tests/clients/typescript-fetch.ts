// openapi-generator's client for TypeScript, on fetch.
import {
  Configuration,
  OldRoutesApi,
  type Payment,
  PaymentsApi,
  type Problem,
  ResponseError,
  Status,
} from "./typescript-fetch/index.js";

const configuration = new Configuration({
  basePath: process.env.URL!,
  accessToken: process.env.KEY!,
});
const payments = new PaymentsApi(configuration);
const oldRoutes = new OldRoutesApi(configuration);

// A payment's value in cents, exactly: a double is never half a cent away.
const cents = (payment: number): number => Math.round(payment * 100);

const text = (payment: number | null): string => {
  const digits = String(cents(payment!)).padStart(3, "0");
  return `${digits.slice(0, -2)}.${digits.slice(-2)}`;
};

const problem = async (request: Promise<unknown>): Promise<Problem> => {
  try {
    await request;
  } catch (error) {
    if (error instanceof ResponseError) return (await error.response.json()) as Problem;
    throw error;
  }
  throw new Error("The request succeeded");
};

const made: Payment[] = [];
for (const value of ["0.10", "12345.67", "99999.99"]) {
  const payment = await payments.createPayment({
    paymentInput: { payment: value },
    idempotencyKey: `key-${value}`,
  });
  made.push(payment);
  console.log("create", payment.id, text(payment.payment), payment.status);
}
const id = made[0]!.id;

const again = await payments.createPayment({
  paymentInput: { payment: "0.10" },
  idempotencyKey: "key-0.10",
});
console.log("replay", again.id);

let cursor: string | undefined;
do {
  const page = await payments.listPayments({ limit: 2, cursor });
  console.log("page", ...page.items.map((one) => text(one.payment)));
  cursor = page.next ?? undefined;
} while (cursor);

const consume = { id, statusChange: { status: Status.Consumed } };
const consumed = await payments.updatePayment(consume);
console.log("consume", consumed.status, consumed.consumedBy);
// What `json()` returns has the names of the contract.
const conflict = (await problem(payments.updatePayment(consume))) as unknown as Record<string, unknown>;
console.log("conflict", conflict.status, conflict.type, conflict.consumed_by);

const rest = await payments.consumePayments({ consumptionInput: { limit: 10 } });
console.log("consumption", ...rest.items.map((one) => text(one.payment)));

await payments.deletePayment({ id });
const missing = await problem(payments.readPayment({ id }));
console.log("deleted", missing.status, missing.type);

const reused = (await problem(
  payments.createPayment({ paymentInput: { payment: "0.20" }, idempotencyKey: "key-0.10" }),
)) as unknown as Record<string, unknown>;
console.log("reused", reused.status, reused.type, reused.payment_id);

const old = await oldRoutes.oldCreate({ oldPaymentInput: { payment: "0.10" } });
console.log("old", text(old.payment), old.status);
