-- Reads every row, once for each, and blocks no writer. If the first fails, `payments audit` names the
-- rows.

ALTER TABLE public.payments VALIDATE CONSTRAINT payments_event_order;
ALTER TABLE public.payments VALIDATE CONSTRAINT payments_id_range;
