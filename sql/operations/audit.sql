-- Audit records in a table, if bodata.audit_sink says so. A background worker writes them.

CREATE TABLE immuta.audit_log (
    event_time timestamptz NOT NULL,
    id uuid NOT NULL,
    action text NOT NULL,
    status text NOT NULL,
    impersonator text,
    iamid text,
    userid text,
    mapped_role text,
    session_id text,
    command text,
    query text,
    error_code text,
    rows bigint,
    duration interval,
    objects text[],
    record jsonb NOT NULL
) PARTITION BY RANGE (event_time);
REVOKE ALL ON immuta.audit_log FROM PUBLIC;
-- Statistics show values; partitions need that again.
ALTER TABLE immuta.audit_log ALTER COLUMN query SET STATISTICS 0, ALTER COLUMN command SET STATISTICS 0,
    ALTER COLUMN objects SET STATISTICS 0, ALTER COLUMN record SET STATISTICS 0;
GRANT SELECT ON immuta.audit_log TO immuta_admin;
COMMENT ON TABLE immuta.audit_log IS 'audit records, one partition a day (UTC); see bodata.audit_sink and bodata.audit_retention';
COMMENT ON COLUMN immuta.audit_log.action IS 'QUERY; IMPERSONATE for the begin, refusal and end of an impersonation; CREATE, UPDATE or DELETE for a change of access';
COMMENT ON COLUMN immuta.audit_log.status IS 'SUCCESS, FAILURE, or UNAUTHORIZED where a right was lacking';
COMMENT ON COLUMN immuta.audit_log.objects IS 'relations that were accessed, qualified by their schemas';
COMMENT ON COLUMN immuta.audit_log.record IS 'all of it, in the universal audit model';

SELECT pg_catalog.pg_extension_config_dump('immuta.audit_log', '');

CREATE FUNCTION immuta_internal.close_relation(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
        FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = relation AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', relation, grantee);
    END LOOP;
END
$$;
COMMENT ON FUNCTION immuta_internal.close_relation(regclass) IS 'takes a relation of ours from whom default privileges gave it to';

-- Partitions are the administrator's own tables as far as pg_dump goes: they are dumped and restored like any other. Each
-- has its own key and index: those of audit_log would be made by attaching, and once more by pg_restore.
CREATE FUNCTION immuta_internal.make_audit_partition(day date) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    partition name := 'audit_log_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF to_regclass(format('immuta.%I', partition)) IS NULL THEN
        -- In two steps: attaching waits for no reader, and no reader for it.
        EXECUTE format('CREATE TABLE immuta.%I (LIKE immuta.audit_log INCLUDING ALL)', partition);
        EXECUTE format('ALTER TABLE immuta.%I ADD PRIMARY KEY (event_time, id)', partition);
        EXECUTE format('CREATE INDEX ON immuta.%I (userid, event_time)', partition);
        PERFORM immuta_internal.close_relation(format('immuta.%I', partition)::regclass);
        EXECUTE format('ALTER TABLE immuta.%I ALTER COLUMN query SET STATISTICS 0, ALTER COLUMN command SET STATISTICS 0, '
                       'ALTER COLUMN objects SET STATISTICS 0, ALTER COLUMN record SET STATISTICS 0', partition);
        EXECUTE format('ALTER TABLE immuta.audit_log ATTACH PARTITION immuta.%I FOR VALUES FROM (%L) TO (%L)',
                       partition, day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00');
    END IF;
END
$$;
COMMENT ON FUNCTION immuta_internal.make_audit_partition(date) IS 'the partition for the records of a day';

-- A record that was stored before (and the worker died before it could say so) is known by its id. Partitions are made
-- when one is missing. What the database cannot hold (letters that its encoding lacks) is stored without those letters.
CREATE FUNCTION immuta_internal.store_audit(records text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET synchronous_commit = on
AS $$
DECLARE
    plain text[];
    day date;
BEGIN
    FOR attempt IN 1..3 LOOP
        BEGIN
            INSERT INTO immuta.audit_log
            SELECT (r->>'eventTimestamp')::timestamptz, (r->>'id')::uuid, r->>'action', r->>'actionStatus',
                   r->'actor'->>'impersonatedBy', r->'actor'->>'identityProvider', r->'actor'->>'id',
                   p->'accessControls'->>'mappedRole', r->>'sessionId', p->'technologyContext'->>'command', p->>'query',
                   coalesce(p->>'errorCode', r->>'actionStatusReason'), (p->>'rows')::bigint,
                   (p->>'duration')::double precision * interval '1 millisecond',
                   CASE WHEN r->'targets' <> '[]' THEN
                       (SELECT array_agg(t->>'name' ORDER BY n)
                        FROM jsonb_array_elements(r->'targets') WITH ORDINALITY x (t, n)) END,
                   r
            FROM (SELECT line::jsonb AS r FROM unnest(coalesce(plain, records)) line OFFSET 0) one,
                 LATERAL (SELECT r->'auditPayload' AS p OFFSET 0) two
            ON CONFLICT DO NOTHING;
            RETURN;
        EXCEPTION
            WHEN check_violation THEN
                FOR day IN SELECT DISTINCT (line::json->>'eventTimestamp')::timestamptz::date
                           FROM unnest(coalesce(plain, records)) line LOOP
                    PERFORM immuta_internal.make_audit_partition(day);
                END LOOP;
            WHEN untranslatable_character OR invalid_text_representation OR feature_not_supported THEN
                plain := ARRAY(SELECT regexp_replace(line, '(?<!\\)((\\\\)*)\\u[0-9a-f]{4}', '\1?', 'g')
                               FROM unnest(records) line);
        END;
    END LOOP;
    RAISE EXCEPTION 'audit records could not be stored';
END
$$;
COMMENT ON FUNCTION immuta_internal.store_audit(text[]) IS 'what the audit writer stores';

CREATE FUNCTION immuta.expire_audit() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '10s'
AS $$
DECLARE
    days integer := current_setting('bodata.audit_retention')::integer;
    partition name;
BEGIN
    IF days > 0 THEN
        FOR partition IN
            SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'immuta.audit_log'::regclass AND c.relname ~ '^audit_log_\d{8}$'
              AND to_date(right(c.relname, 8), 'YYYYMMDD') < current_date - days
        LOOP
            EXECUTE format('DROP TABLE immuta.%I', partition);
        END LOOP;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION immuta.expire_audit() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.expire_audit() TO immuta_admin;
COMMENT ON FUNCTION immuta.expire_audit() IS 'drops the partitions of audit_log that are older than bodata.audit_retention days; the audit writer does it each hour';
ALTER FUNCTION immuta.expire_audit() SECURITY DEFINER;

CREATE FUNCTION immuta.flush_audit(patience interval = '10 s') RETURNS boolean
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'immuta_flush_audit_wrapper';
REVOKE ALL ON FUNCTION immuta.flush_audit(interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.flush_audit(interval) TO immuta_admin;
COMMENT ON FUNCTION immuta.flush_audit(interval) IS 'waits until everything that was recorded before is in audit_log; whether it is';

CREATE FUNCTION immuta.audit_report(since timestamptz = '-infinity', until timestamptz = 'infinity')
RETURNS TABLE (userid text, iamid text, data_source text, statements bigint, rows bigint, failed bigint, denied bigint,
               impersonators text[], first_access timestamptz, last_access timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.userid, a.iamid, o.name, count(*), sum(a.rows)::bigint, count(*) FILTER (WHERE a.status = 'FAILURE'),
           count(*) FILTER (WHERE a.status = 'UNAUTHORIZED'), array_agg(DISTINCT a.impersonator ORDER BY a.impersonator),
           min(a.event_time), max(a.event_time)
    FROM immuta.audit_log a LEFT JOIN LATERAL unnest(a.objects) o (name) ON true
    WHERE a.action = 'QUERY' AND a.event_time >= since AND a.event_time < until
    GROUP BY a.userid, a.iamid, o.name
    ORDER BY a.userid, a.iamid, o.name
$$;
REVOKE ALL ON FUNCTION immuta.audit_report(timestamptz, timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION immuta.audit_report(timestamptz, timestamptz) TO immuta_admin;
COMMENT ON FUNCTION immuta.audit_report(timestamptz, timestamptz) IS 'who accessed which data source how often in a time, from audit_log; data_source is NULL for statements without one';
