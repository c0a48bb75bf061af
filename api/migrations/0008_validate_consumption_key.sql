-- Reads every row and blocks no writer. No payment has a key yet that could break it.

ALTER TABLE public.payments VALIDATE CONSTRAINT payments_consumption_key;
