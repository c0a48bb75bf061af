-- What a client consumed with an Idempotency-Key, so that a lost answer can be asked for again.
--
-- A key of PATCH stands in the payment's own row, for the same reason as that of the creation. A key
-- of POST /v1/consumptions stands for many payments, and has a row of its own.

ALTER TABLE public.payments ADD COLUMN IF NOT EXISTS consumption_key text;

CREATE TABLE IF NOT EXISTS public.consumptions (
  client text NOT NULL,
  idempotency_key text NOT NULL CONSTRAINT consumptions_idempotency_key_length
    CHECK (char_length(idempotency_key) BETWEEN 1 AND 255),
  requested bigint NOT NULL CONSTRAINT consumptions_requested_range
    CHECK (requested BETWEEN 1 AND 1000),
  payment_ids bigint [] NOT NULL CONSTRAINT consumptions_payment_ids_count
    CHECK (cardinality(payment_ids) BETWEEN 1 AND requested),
  consumed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (client, idempotency_key)
);

-- What `payments purge` removes.
CREATE INDEX IF NOT EXISTS consumptions_consumed_at ON public.consumptions (consumed_at);

DO $$
BEGIN
  IF NOT EXISTS (
    SELECT FROM pg_constraint
    WHERE conrelid = 'public.payments'::regclass AND conname = 'payments_consumption_key'
  ) THEN
    -- The next migration validates it.
    ALTER TABLE public.payments ADD CONSTRAINT payments_consumption_key
      CHECK (
        consumption_key IS NULL
        OR (consumed_at IS NOT NULL AND char_length(consumption_key) BETWEEN 1 AND 255)
      ) NOT VALID;
  END IF;
END
$$;

-- Written once, with the consumption.
CREATE OR REPLACE TRIGGER payments_evidence
BEFORE UPDATE ON public.payments
FOR EACH ROW
WHEN (
  current_user <> 'payments_owner'
  AND (
    (OLD.consumed_at IS NOT NULL AND OLD.consumed_at IS DISTINCT FROM NEW.consumed_at)
    OR (OLD.consumed_by IS NOT NULL AND OLD.consumed_by IS DISTINCT FROM NEW.consumed_by)
    OR (
      OLD.consumed_at IS NOT NULL AND OLD.consumption_key IS DISTINCT FROM NEW.consumption_key
    )
    OR (OLD.deleted_at IS NOT NULL AND OLD.deleted_at IS DISTINCT FROM NEW.deleted_at)
    OR (OLD.deleted_by IS NOT NULL AND OLD.deleted_by IS DISTINCT FROM NEW.deleted_by)
  )
)
EXECUTE FUNCTION public.refuse_to_rewrite_evidence();

-- The service remembers, and changes nothing of it. Which payments a client consumed says each
-- payment's own row: a false `payment_ids` can only name more of the client's own.
DROP POLICY IF EXISTS consumptions_read ON public.consumptions;
CREATE POLICY consumptions_read ON public.consumptions FOR SELECT USING (true);

DROP POLICY IF EXISTS consumptions_client ON public.consumptions;
CREATE POLICY consumptions_client ON public.consumptions FOR INSERT
WITH CHECK (
  client = 'anonymous'
  OR client IN (
    SELECT client FROM public.api_keys
    WHERE coalesce(least(revoked_at, expires_at) > now() - interval '1 minute', true)
  )
);

ALTER TABLE public.consumptions ENABLE ROW LEVEL SECURITY;

GRANT SELECT, INSERT (client, idempotency_key, requested, payment_ids)
  ON public.consumptions TO payments_app;
GRANT UPDATE (consumption_key) ON public.payments TO payments_app;
