-- A service that was broken into cannot invent when a payment was created, consumed or deleted, nor
-- in the name of which client.
--
-- The time is checked by triggers, whose conditions are a part of the write: the function is called
-- only to refuse. The client is checked by row-level security, which looks the live clients up once
-- for a statement; a trigger that does so costs twice as much. Neither binds the owner: it could
-- drop them.
--
-- now() is when the transaction began, which could be kept open for days. A minute is the longest
-- statement that the service can be set to (PAYMENTS_STATEMENT_TIMEOUT_SECONDS); each is a
-- transaction of its own.

CREATE OR REPLACE FUNCTION public.refuse_event() RETURNS trigger
LANGUAGE plpgsql
SET search_path = ''
AS $$
BEGIN
  RAISE EXCEPTION 'payment %: %', NEW.id, TG_ARGV[0] USING ERRCODE = 'insufficient_privilege';
END
$$;

REVOKE ALL ON FUNCTION public.refuse_event() FROM PUBLIC;

-- The service's role has no privilege to insert created_at and updated_at: both are now().
CREATE OR REPLACE TRIGGER payments_creation_event
BEFORE INSERT ON public.payments
FOR EACH ROW
WHEN (
  (
    NEW.consumed_at <> now() OR NEW.consumed_by <> NEW.created_by
    OR clock_timestamp() > now() + interval '1 minute'
  )
  AND NOT pg_has_role('payments_owner', 'SET')
)
EXECUTE FUNCTION public.refuse_event(
  'created within a minute of the transaction''s begin; one that is created as consumed is consumed'
  ' now, by the client that creates it'
);

-- A server whose clock is behind, after a failover, makes an event no earlier than the creation.
-- deleted_at is compared in every update, so that a deleted payment changes no more.
CREATE OR REPLACE TRIGGER payments_update_event
BEFORE UPDATE ON public.payments
FOR EACH ROW
WHEN (
  (
    NEW.updated_at <> greatest(now(), OLD.updated_at + interval '1 microsecond')
    OR (OLD.consumed_at IS NULL AND NEW.consumed_at <> greatest(now(), OLD.created_at))
    OR NEW.deleted_at <> greatest(now(), OLD.created_at)
    OR (OLD.consumed_at IS NULL AND NEW.consumed_at = NEW.deleted_at)
    OR clock_timestamp() > now() + interval '1 minute'
  )
  AND NOT pg_has_role('payments_owner', 'SET')
)
EXECUTE FUNCTION public.refuse_event(
  'one event at a time, when it is written, within a minute of the transaction''s begin, and none of'
  ' a deleted payment'
);

DROP POLICY IF EXISTS payments_read ON public.payments;
CREATE POLICY payments_read ON public.payments FOR SELECT USING (true);

-- A client exists while it has a live key, and a minute longer: the service trusts a key for up to
-- 30 s after its end. Without authentication (PAYMENTS_AUTHENTICATION=false) all are `anonymous`.
DROP POLICY IF EXISTS payments_created_by ON public.payments;
CREATE POLICY payments_created_by ON public.payments FOR INSERT
WITH CHECK (
  created_by = 'anonymous'
  OR created_by IN (
    SELECT client FROM public.api_keys
    WHERE coalesce(least(revoked_at, expires_at) > now() - interval '1 minute', true)
  )
);

-- An update is one event, the deletion or the consumption; earlier events have earlier times. The
-- condition on the key stands here again: in a function, it would be planned for each statement.
DROP POLICY IF EXISTS payments_changed_by ON public.payments;
CREATE POLICY payments_changed_by ON public.payments FOR UPDATE
USING (true)
WITH CHECK (
  CASE WHEN deleted_at >= now() THEN deleted_by WHEN consumed_at >= now() THEN consumed_by END
  = 'anonymous'
  OR CASE WHEN deleted_at >= now() THEN deleted_by WHEN consumed_at >= now() THEN consumed_by END
  IN (
    SELECT client FROM public.api_keys
    WHERE coalesce(least(revoked_at, expires_at) > now() - interval '1 minute', true)
  )
);

ALTER TABLE public.payments ENABLE ROW LEVEL SECURITY;

-- These bind the owner too. The next migration validates them without blocking a writer. The service
-- and the audit find no payment whose id is below 1.
DO $$
BEGIN
  IF NOT EXISTS (
    SELECT FROM pg_constraint
    WHERE conrelid = 'public.payments'::regclass AND conname = 'payments_event_order'
  ) THEN
    ALTER TABLE public.payments ADD CONSTRAINT payments_event_order
      CHECK (consumed_at >= created_at AND deleted_at >= created_at) NOT VALID;
  END IF;
  IF NOT EXISTS (
    SELECT FROM pg_constraint
    WHERE conrelid = 'public.payments'::regclass AND conname = 'payments_id_range'
  ) THEN
    ALTER TABLE public.payments ADD CONSTRAINT payments_id_range CHECK (id > 0) NOT VALID;
  END IF;
END
$$;
