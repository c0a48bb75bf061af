-- The roles, made once for each database by its administrator (`payments roles`), before the first
-- migration. Where the database is RDS they sign in with IAM; elsewhere how a role proves who it is
-- (password, local trust) is not decided here.
--
--   payments_owner     owns every object; nobody logs in as it
--   payments_migrator  logs in to migrate, and acts as the owner
--   payments_app       logs in to serve; each migration grants it what it needs, column by column
--
-- With `--environment dev`, which is the setting payments.environment here, two logins besides:
--
--   payments_migrator_dev  has the privileges of payments_migrator
--   payments_app_dev       has the privileges of payments_app
--
-- IAM can name the databases that a role may log in to only once they exist, but it can name the user
-- before: with these logins no identity of one environment reaches the database of another.

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

-- A login has the privileges of its role and cannot become it (SET FALSE): as payments_app it could
-- give payments_app a password, which is a way in beside IAM.
DO $$
DECLARE
  environment text := nullif(current_setting('payments.environment', true), '');
  migrator text := concat_ws('_', 'payments_migrator', environment);
  app text := concat_ws('_', 'payments_app', environment);
BEGIN
  IF environment IS NOT NULL THEN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = migrator) THEN
      EXECUTE format('CREATE ROLE %I LOGIN NOINHERIT', migrator);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = app) THEN
      EXECUTE format('CREATE ROLE %I LOGIN', app);
    END IF;
    EXECUTE format('GRANT payments_migrator TO %I WITH INHERIT TRUE, SET FALSE', migrator);
    EXECUTE format('GRANT payments_owner TO %I WITH INHERIT FALSE, SET TRUE', migrator);
    EXECUTE format('GRANT payments_app TO %I WITH INHERIT TRUE, SET FALSE', app);
  END IF;
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_iam') THEN
    REVOKE rds_iam FROM payments_migrator, payments_app;
    EXECUTE format('GRANT rds_iam TO %I, %I', migrator, app);
  END IF;
END
$$;

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
