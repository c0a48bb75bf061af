-- The three roles, made once for each database by its administrator (`payments roles`), before the
-- first migration. Where the database is RDS they sign in with IAM; elsewhere how a role proves who it
-- is (password, local trust) is not decided here.
--
--   payments_owner     owns every object; nobody logs in as it
--   payments_migrator  logs in to migrate, and acts as the owner
--   payments_app       logs in to serve; each migration grants it what it needs, column by column

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'payments_owner') THEN
    CREATE ROLE payments_owner NOLOGIN;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'payments_migrator') THEN
    CREATE ROLE payments_migrator LOGIN NOINHERIT;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'payments_app') THEN
    CREATE ROLE payments_app LOGIN;
  END IF;
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_iam') THEN
    GRANT rds_iam TO payments_migrator, payments_app;
  END IF;
END
$$;

GRANT payments_owner TO payments_migrator WITH INHERIT FALSE, SET TRUE;

-- An administrator that is no superuser (as on RDS) can give the database away only to a role that
-- it can become.
GRANT payments_owner TO CURRENT_USER WITH SET TRUE;

DO $$
BEGIN
  EXECUTE format('ALTER DATABASE %I OWNER TO payments_owner', current_database());
  EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO payments_migrator, payments_app', current_database());
END
$$;

ALTER SCHEMA public OWNER TO payments_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO payments_app, payments_migrator;

-- Since when the oldest transaction runs, whoever's it is: what the auditor warns of, and the one
-- thing about others' sessions that the service's role is told. An administrator may see it, so that
-- it is asked as the administrator.
CREATE OR REPLACE FUNCTION public.oldest_transaction() RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = ''
AS $$
  SELECT min(xact_start) FROM pg_catalog.pg_stat_activity
  WHERE backend_type = 'client backend' AND datname = pg_catalog.current_database()
$$;

REVOKE ALL ON FUNCTION public.oldest_transaction() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.oldest_transaction() TO payments_app;
