// @hey-api/openapi-ts's client for TypeScript.
import { client } from "./hey-api/client.gen.js";
import {
  consumePayments,
  createPayment,
  deletePayment,
  listPayments,
  oldCreate,
  readPayment,
  updatePayment,
} from "./hey-api/index.js";

client.setConfig({ baseUrl: process.env.URL!, auth: process.env.KEY! });

const text = (payment: number | null): string => {
  const digits = String(Math.round(payment! * 100)).padStart(3, "0");
  return `${digits.slice(0, -2)}.${digits.slice(-2)}`;
};

const ids: number[] = [];
for (const value of ["0.10", "12345.67", "99999.99"]) {
  const { data } = await createPayment({
    body: { payment: value },
    headers: { "Idempotency-Key": `key-${value}` },
    throwOnError: true,
  });
  ids.push(data.id);
  console.log("create", data.id, text(data.payment), data.status);
}
const id = ids[0]!;

const again = await createPayment({
  body: { payment: "0.10" },
  headers: { "Idempotency-Key": "key-0.10" },
  throwOnError: true,
});
console.log("replay", again.data.id);

let cursor: string | undefined;
do {
  const { data } = await listPayments({ query: { limit: 2, cursor }, throwOnError: true });
  console.log("page", ...data.items.map((one) => text(one.payment)));
  cursor = data.next ?? undefined;
} while (cursor);

const consume = { path: { id }, body: { status: "consumed" as const } };
const consumed = await updatePayment({ ...consume, throwOnError: true });
console.log("consume", consumed.data.status, consumed.data.consumed_by);
const { error: conflict } = await updatePayment(consume);
console.log("conflict", conflict!.status, conflict!.type, conflict!.consumed_by);

const rest = await consumePayments({ body: { limit: 10 }, throwOnError: true });
console.log("consumption", ...rest.data.items.map((one) => text(one.payment)));

await deletePayment({ path: { id }, throwOnError: true });
const { error: missing } = await readPayment({ path: { id } });
console.log("deleted", missing!.status, missing!.type);

const { error: reused } = await createPayment({
  body: { payment: "0.20" },
  headers: { "Idempotency-Key": "key-0.10" },
});
console.log("reused", reused!.status, reused!.type, reused!.payment_id);

const old = await oldCreate({ body: { payment: "0.10" }, throwOnError: true });
console.log("old", text(old.data.payment), old.data.status);
