"""Every statement of the PostgreSQL engine, constant text each: values are bound, identifiers composed."""

SETTING = "SELECT current_setting(%s)"

# Settings whose value in force, or in the files for the next reload, is not the wanted one.
DIFFERS = """
SELECT name FROM unnest(%s::text[], %s::text[]) AS wanted(name, value)
 WHERE current_setting(name) <> value
    OR (SELECT f.setting FROM pg_file_settings AS f WHERE f.name = wanted.name ORDER BY f.seqno DESC LIMIT 1) <> value
"""

STATE = """
SELECT pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END,
       pg_last_wal_replay_lsn()::text,
       r.status, r.sender_host,
       current_setting('primary_conninfo'),
       current_setting('synchronous_standby_names'),
       (SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'IPC' AND wait_event = 'SyncRep'),
       (SELECT array_agg(DISTINCT application_name ORDER BY application_name) FROM pg_stat_replication
         WHERE state = 'streaming' AND application_name <> %s),
       to_regclass('failover.heartbeat') IS NOT NULL
  FROM (VALUES (1)) AS one(row) LEFT JOIN pg_stat_wal_receiver AS r ON true
"""

NEWEST_HEARTBEAT = "SELECT epoch, sequence FROM failover.heartbeat ORDER BY epoch DESC, sequence DESC LIMIT 1"

PREPARED = """
SELECT CASE WHEN to_regclass('failover.heartbeat') IS NOT NULL
            THEN has_schema_privilege(%s, 'failover', 'USAGE')
                 AND has_table_privilege(%s, 'failover.heartbeat', 'SELECT')
            ELSE false END
"""

PREPARE = (
    "CREATE SCHEMA IF NOT EXISTS failover",
    "CREATE TABLE IF NOT EXISTS failover.heartbeat"
    " (epoch int NOT NULL, sequence bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())",
    "GRANT USAGE ON SCHEMA failover TO {monitor}",
    "GRANT SELECT ON failover.heartbeat TO {monitor}",
)

# One transaction. The insert proves that the server takes writes; old rows go with it.
BEAT = """
WITH beat AS (INSERT INTO failover.heartbeat (epoch, sequence) VALUES (%s, %s))
DELETE FROM failover.heartbeat WHERE epoch < %s OR sequence <= %s
"""

TERMINATE_CLIENTS = """
SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
   AND NOT (usename = %s AND application_name = %s) AND NOT (usename = %s AND application_name = %s)
"""

# Before a promotion: a paused replay looks for one only once a second, and afterwards may not be resumed.
RESUME = """
SELECT CASE WHEN pg_is_in_recovery() AND pg_is_wal_replay_paused() THEN pg_wal_replay_resume() END
"""

# Not pg_promote(true): that one polls every 100 ms.
PROMOTE = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_promote(false) END"

PRIMARY_TIMELINE = "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"

MAKE_SLOTS = """
SELECT pg_create_physical_replication_slot(name, %s) FROM unnest(%s::text[]) AS name
 WHERE name NOT IN (SELECT slot_name FROM pg_replication_slots)
"""

DROP_IDLE_SLOTS = """
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
 WHERE slot_type = 'physical' AND NOT active AND starts_with(slot_name, %s) AND slot_name <> ALL (%s::text[])
"""

# Walsenders that may still release a commit although the new set does not name them (names compare without case).
OLD_WALSENDERS = """
SELECT pid FROM pg_stat_replication
 WHERE sync_priority > 0 AND lower(application_name) NOT IN (SELECT lower(name) FROM unnest(%s::text[]) AS name)
"""

# What a file in the log is: schema, table, kind. 0 stands for the database's own tablespace.
TABLE_OF_FILE = """
SELECT n.nspname, c.relname, c.relkind::text
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.oid = pg_filenode_relation(%s, %s)
"""
DATABASE_NAME = "SELECT datname FROM pg_database WHERE oid = %s AND datallowconn"

CHECKPOINTER = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"
WAIT_OF = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"

# What pg_rewind needs of a server, and the functions that its account must be allowed to execute there.
REWIND_SETTINGS = """
SELECT current_setting('wal_log_hints'), current_setting('data_checksums'), current_setting('full_page_writes'),
       to_regrole(quote_ident(%s)) IS NOT NULL
"""
REWIND_FUNCTIONS = """
SELECT split_part(f, '(', 1) FROM unnest(ARRAY['pg_ls_dir(text, boolean, boolean)', 'pg_stat_file(text, boolean)',
       'pg_read_binary_file(text)', 'pg_read_binary_file(text, bigint, bigint, boolean)']) AS f
 WHERE NOT has_function_privilege(%s, 'pg_catalog.' || f, 'EXECUTE') GROUP BY 1 ORDER BY 1
"""

# For the monitor account: GREATEST skips a NULL; the receiver's timeline shows only to members of pg_read_all_stats.
LOOK = """
SELECT pg_is_in_recovery(),
       current_setting('transaction_read_only') = 'on',
       (SELECT system_identifier::text FROM pg_control_system()),
       CASE WHEN pg_is_in_recovery() THEN (SELECT received_tli FROM pg_stat_wal_receiver)
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::int END,
       CASE WHEN pg_is_in_recovery() THEN GREATEST(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            ELSE pg_current_wal_flush_lsn() END::text,
       EXISTS (SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                WHERE n.nspname = 'failover' AND c.relname = 'heartbeat'
                  AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')),
       (SELECT sender_host FROM pg_stat_wal_receiver),
       (SELECT status = 'streaming' FROM pg_stat_wal_receiver)
"""
