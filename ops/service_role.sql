-- A role for api, workers and loops that may read and write rows and nothing else: it makes, changes and drops no table, and the audit's rows are
-- beyond it. Run as the owner of the tables after every `python -m expunge.store.migrate`, which goes on as the owner:
--   psql "$OWNER_URL" -v role=expunge_service -f ops/service_role.sql
-- (the role itself: create role expunge_service login password '...')
grant usage on schema public to :role;
grant select, insert, update, delete on all tables in schema public to :role;
grant usage on all sequences in schema public to :role;
revoke insert, update, delete on alembic_version from :role;
revoke update, delete on audit, artifact_reads from :role;
