-- What is going on now, and how much has happened so far: for members of pg_monitor.

CREATE FUNCTION immuta_internal.impersonating_sessions(
    OUT pid integer, OUT database oid, OUT impersonator oid, OUT iamid bytea, OUT userid bytea, OUT mapped_role oid,
    OUT established_at timestamptz, OUT statements bigint)
RETURNS SETOF record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'immuta_impersonating_sessions_wrapper';
GRANT EXECUTE ON FUNCTION immuta_internal.impersonating_sessions() TO pg_monitor, immuta_admin;
COMMENT ON FUNCTION immuta_internal.impersonating_sessions() IS 'see the view impersonations';

CREATE VIEW immuta.impersonations AS
SELECT s.pid, d.datname AS database, pg_catalog.pg_get_userbyid(s.impersonator) AS impersonator,
       pg_catalog.convert_from(s.iamid, 'UTF8') AS iamid, pg_catalog.convert_from(s.userid, 'UTF8') AS userid,
       pg_catalog.pg_get_userbyid(s.mapped_role) AS mapped_role, s.established_at, s.statements, a.state,
       a.client_addr, a.application_name,
       CASE WHEN immuta_internal.sees_all_sessions() THEN 'server' ELSE 'this session' END AS coverage
FROM immuta_internal.impersonating_sessions() s
     LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) s.pid
     LEFT JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) s.database;
REVOKE ALL ON immuta.impersonations FROM PUBLIC;
GRANT SELECT ON immuta.impersonations TO pg_monitor, immuta_admin;
COMMENT ON VIEW immuta.impersonations IS 'who impersonates whom at this moment; coverage tells whether all sessions of the server are seen (shared_preload_libraries) or this one only';

CREATE FUNCTION immuta_internal.counters(OUT name text, OUT label text, OUT value double precision)
RETURNS SETOF record
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'immuta_counters_wrapper';
GRANT EXECUTE ON FUNCTION immuta_internal.counters() TO pg_monitor, immuta_admin;
COMMENT ON FUNCTION immuta_internal.counters() IS 'see the view impersonation_stats';

CREATE VIEW immuta.impersonation_stats AS
SELECT c.name, c.label, c.value, CASE WHEN immuta_internal.sees_all_sessions() THEN 'server' ELSE 'this session' END AS coverage
FROM immuta_internal.counters() c;
REVOKE ALL ON immuta.impersonation_stats FROM PUBLIC;
GRANT SELECT ON immuta.impersonation_stats TO pg_monitor, immuta_admin;
COMMENT ON VIEW immuta.impersonation_stats IS 'counters since the server started or they were reset, with names as Prometheus has them; label is the reason of a refusal, or the upper bound of a class of latencies in seconds';

CREATE FUNCTION immuta.reset_impersonation_stats() RETURNS void
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'immuta_reset_impersonation_stats_wrapper';
REVOKE ALL ON FUNCTION immuta.reset_impersonation_stats() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.reset_impersonation_stats() TO pg_monitor, immuta_admin;
COMMENT ON FUNCTION immuta.reset_impersonation_stats() IS 'sets all counters of impersonation_stats to zero';
