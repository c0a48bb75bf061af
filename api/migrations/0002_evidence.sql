-- Who consumed and who deleted a payment, and when, is evidence: it is written once.
--
-- Privileges cannot say that, since the service needs the columns to write them the first time. A
-- trigger does, for every role but the owner: it could drop the trigger, and `payments import` takes
-- back as the owner what it brought itself. The condition is a part of the update, so that the function
-- is called only to refuse.

CREATE OR REPLACE FUNCTION public.refuse_to_rewrite_evidence() RETURNS trigger
LANGUAGE plpgsql
SET search_path = ''
AS $$
BEGIN
  RAISE EXCEPTION 'who consumed or deleted payment %, and when, cannot be changed', OLD.id
    USING ERRCODE = 'insufficient_privilege';
END
$$;

REVOKE ALL ON FUNCTION public.refuse_to_rewrite_evidence() FROM PUBLIC;

CREATE OR REPLACE TRIGGER payments_evidence
BEFORE UPDATE ON public.payments
FOR EACH ROW
WHEN (
  current_user <> 'payments_owner'
  AND (
    (OLD.consumed_at IS NOT NULL AND OLD.consumed_at IS DISTINCT FROM NEW.consumed_at)
    OR (OLD.consumed_by IS NOT NULL AND OLD.consumed_by IS DISTINCT FROM NEW.consumed_by)
    OR (OLD.deleted_at IS NOT NULL AND OLD.deleted_at IS DISTINCT FROM NEW.deleted_at)
    OR (OLD.deleted_by IS NOT NULL AND OLD.deleted_by IS DISTINCT FROM NEW.deleted_by)
  )
)
EXECUTE FUNCTION public.refuse_to_rewrite_evidence();
