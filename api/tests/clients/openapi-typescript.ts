// openapi-typescript's types, which have no client of their own: what is right compiles.
import type { components, paths } from "./openapi-typescript/index.js";

type NewPayment = paths["/v1/payments"]["post"]["requestBody"]["content"]["application/json"];

// `data` may be left out.
export const created: NewPayment = { payment: "12345.67" };
export const cents = (payment: components["schemas"]["Payment"]): number | null =>
  payment.payment === null ? null : Math.round(payment.payment * 100);
