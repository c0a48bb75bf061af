-- no transaction
--
-- What the auditor (`payments audit`) counts consumptions by: those of a minute, and not a table's.
-- Creations and deletions have an index already.

-- squawk-ignore ban-concurrent-index-creation-in-transaction
CREATE INDEX CONCURRENTLY IF NOT EXISTS payments_consumed_at ON public.payments
  (consumed_at) WHERE consumed_at IS NOT NULL;
