-- Reads every row and blocks no writer. If it fails, `payments audit` names the rows.

ALTER TABLE public.payments VALIDATE CONSTRAINT payments_event_order;
