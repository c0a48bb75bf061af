-- no transaction
--
-- The lists of one client. Those of all read payments_list_by_status alone from now on, so that a later
-- version can drop payments_list.

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS payments_list_by_client ON public.payments
  (created_by, status, created_at, id) WHERE deleted_at IS NULL;
