"""Everything a query can do with a masked column. Each statement runs twice: where columns are masked, and where the masks are
gone but the columns are excluded as before. Nothing ever shows what is masked; what gives a mask in the one is refused
by PostgreSQL in the other.

Threats: 63 (docs/threats.md).
"""

import re

import pytest
from conftest import run
from harness.fixtures import VERSION

CANARY = re.compile(r"CANARY|\b77\d{4}\b|7700\.77|2077-07-17|77007700|<CANARY")

# name: (statements, what comes of them, since which version). `mask`: the rows show a mask. `runs`: nothing of a mask need be in
# the rows. `refused`: 42501. `refused by us`: 42501 with our hint. `untouched`: names nothing that is masked.
ATTACKS = {
    # -- what is selected
    "column": ("SELECT b FROM data.t", "mask"),
    "star": ("SELECT * FROM data.t", "mask"),
    "row": ("SELECT t FROM data.t", "mask"),
    "field of row": ("SELECT (t).b FROM data.t", "mask"),
    "row as text": ("SELECT t::text FROM data.t", "mask"),
    "row as json": ("SELECT row_to_json(t), to_jsonb(t) FROM data.t", "mask"),
    "array of rows": ("SELECT array_agg(t) FROM data.t", "mask"),
    "column as function": ("SELECT b(t) FROM data.t", "mask"),
    "TABLE": ("TABLE data.t", "mask"),
    "star of alias": ("SELECT x.* FROM data.t x", "mask"),
    "renamed columns": ("SELECT x.four FROM data.t x (one, two, four) ORDER BY 1", "mask"),
    "row of renamed columns": ("SELECT x FROM data.t x (one, two, four)", "mask"),
    "integers": ("SELECT k FROM data.t WHERE k = 42", "runs"),
    "both masked": ("SELECT b, k FROM data.t", "mask"),
    "without masked columns": ("SELECT id, n, c FROM data.t", "untouched"),
    "count of rows": ("SELECT count(*) FROM data.t", "untouched"),
    "existence": ("SELECT 1 FROM data.t LIMIT 1", "untouched"),
    "system columns": ("SELECT ctid, xmin, tableoid FROM data.t", "refused"),
    "system columns and mask": ("SELECT ctid, b FROM data.t", "refused"),
    # -- conditions and orders
    "WHERE": ("SELECT id FROM data.t WHERE b LIKE 'CANARY%'", "none"),
    "WHERE finds masks": ("SELECT b FROM data.t WHERE b = 'mask-1'", "mask"),
    "by index": ("SET LOCAL enable_seqscan = off;; SELECT id FROM data.t WHERE b = 'CANARY-' || 3", "none"),
    "by index on an expression": ("SET LOCAL enable_seqscan = off;; SELECT id FROM data.t WHERE lower(b) = 'canary-' || 3", "none"),
    "index only": ("SET LOCAL enable_seqscan = off;; SELECT b FROM data.t WHERE b >= 'C' ORDER BY b", "mask"),
    "by unique key": ("SELECT id FROM data.t WHERE k > 700000", "none"),
    "leaky function": ("SELECT id FROM data.t WHERE play.leak(b)", "noticed"),
    "leaky function of row": ("SELECT id FROM data.t WHERE play.leak_row(t)", "noticed"),
    "leaky operator": ("SELECT id FROM data.t WHERE b OPERATOR(play.<<<) 'x'", "noticed"),
    "leaky join": ("SELECT t.id FROM data.t JOIN data.u ON t.b OPERATOR(play.<<<) u.b", "noticed"),
    "leak before a filter": ("SELECT id FROM data.t WHERE n = 100 OR play.leak(b)", "noticed"),
    "IS NULL": ("SELECT count(*) FROM data.t WHERE b IS NULL AND k IS NULL", "runs"),
    "GROUP BY": ("SELECT b, count(*) FROM data.t GROUP BY b", "mask"),
    "HAVING": ("SELECT max(b) FROM data.t GROUP BY n HAVING max(b) > 'a'", "mask"),
    "ORDER BY": ("SELECT b FROM data.t ORDER BY b DESC, id", "mask"),
    "DISTINCT": ("SELECT DISTINCT b FROM data.t", "mask"),
    "DISTINCT ON": ("SELECT DISTINCT ON (b) b, id FROM data.t ORDER BY b, id", "mask"),
    "aggregates": ("SELECT string_agg(b, ','), min(b), max(b), array_agg(k), sum(k) FROM data.t", "mask"),
    "count of column": ("SELECT count(b), count(DISTINCT b) FROM data.t", "runs"),
    "FILTER": ("SELECT count(*) FILTER (WHERE b LIKE 'CANARY%') AS n, min(b) FROM data.t", "mask"),
    "ordered aggregate": ("SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY b) FROM data.t", "mask"),
    "window": ("SELECT first_value(b) OVER (ORDER BY b), lag(b) OVER w FROM data.t WINDOW w AS (PARTITION BY b ORDER BY id)", "mask"),
    "window without nulls": ("SELECT lag(b) IGNORE NULLS OVER (ORDER BY id) FROM data.t", "mask", 19),
    "rollup": ("SELECT b, c, count(*) FROM data.t GROUP BY ROLLUP (b, c)", "mask"),
    "grouping sets": ("SELECT b, k, grouping(b) FROM data.t GROUP BY GROUPING SETS ((b), (k), ())", "mask"),
    "functional dependency": ("SELECT id, b FROM data.t GROUP BY id", "mask"),
    "LIMIT": ("SELECT id FROM data.t LIMIT (SELECT length(min(b)) FROM data.t)", "runs"),
    "division": ("SELECT 1 / (k - 770001) FROM data.t", "runs"),
    "cast that fails": ("SELECT b::int FROM data.t", "22P02"),
    "cast of row that fails": ("SELECT t::text::int FROM data.t", "22P02"),
    # -- joins and subqueries
    "join": ("SELECT t.b, u.note FROM data.t JOIN data.u USING (id)", "mask"),
    "join by masked": ("SELECT t.id FROM data.t JOIN data.u ON t.b = u.b", "runs"),
    "USING masked": ("SELECT b FROM data.t JOIN data.u USING (b)", "mask"),
    "NATURAL": ("SELECT * FROM data.t NATURAL JOIN data.u", "mask"),
    "FULL USING": ("SELECT b FROM data.t FULL JOIN data.u USING (b)", "mask"),
    "left join": ("SELECT u.id, t.b, t FROM data.u LEFT JOIN data.t ON t.id = u.id AND t.n > 1", "mask"),
    "right join": ("SELECT t FROM data.t RIGHT JOIN data.u ON t.id = u.id + 18", "mask"),
    "anti join": ("SELECT u.id FROM data.u LEFT JOIN data.t ON t.b = u.b WHERE t.b IS NULL", "runs"),
    "alias of join": ("SELECT j FROM (data.t JOIN data.u USING (id)) AS j", "mask"),
    "self join": ("SELECT x.b, y.b FROM data.t x JOIN data.t y USING (id)", "mask"),
    "lateral": ("SELECT l.b FROM data.u, LATERAL (SELECT b FROM data.t WHERE t.id = u.id) l", "mask"),
    "lateral function": ("SELECT s FROM data.t, LATERAL regexp_split_to_table(t.b, '-') s", "runs"),
    "CTE": ("WITH x AS (SELECT * FROM data.t) SELECT b FROM x", "mask"),
    "CTE MATERIALIZED": ("WITH x AS MATERIALIZED (SELECT * FROM data.t) SELECT x FROM x", "mask"),
    "recursive": ("WITH RECURSIVE x AS (SELECT id, b FROM data.t WHERE id = 1 UNION ALL SELECT t.id, t.b FROM x JOIN data.t ON t.id = x.id + 1) TABLE x", "mask"),
    "UNION": ("SELECT b FROM data.t UNION SELECT b FROM data.u", "mask"),
    "EXCEPT": ("SELECT b FROM data.u EXCEPT SELECT b FROM data.t", "runs"),
    "INTERSECT": ("SELECT b FROM data.u INTERSECT SELECT b FROM data.t", "mask"),
    "VALUES": ("VALUES ((SELECT b FROM data.t WHERE id = 1))", "mask"),
    "EXISTS": ("SELECT id FROM data.u WHERE EXISTS (SELECT FROM data.t WHERE t.b LIKE 'CANARY%' AND t.id = u.id)", "none"),
    "IN": ("SELECT id FROM data.u WHERE 'CANARY-' || id IN (SELECT b FROM data.t)", "none"),
    "NOT IN": ("SELECT id FROM data.u WHERE 'CANARY-' || id NOT IN (SELECT b FROM data.t)", "runs"),
    "ANY": ("SELECT id FROM data.u WHERE u.b = ANY (SELECT b FROM data.t)", "runs"),
    "scalar": ("SELECT (SELECT b FROM data.t WHERE t.id = u.id) FROM data.u", "mask"),
    "ARRAY": ("SELECT ARRAY(SELECT t FROM data.t)", "mask"),
    "JSON_ARRAY": ("SELECT JSON_ARRAY(SELECT b FROM data.t)", "mask", 16),
    "outer reference": ("SELECT (SELECT (SELECT t.b || u.note FROM data.u WHERE u.id = 1)) FROM data.t", "mask"),
    "outer row": ("SELECT (SELECT (SELECT row_to_json(t) FROM data.u WHERE u.id = 1)) FROM data.t", "mask"),
    "aggregate of the outer query": ("SELECT (SELECT max(t.b) FROM data.u LIMIT 1) FROM data.t", "mask"),
    "never run": ("SELECT b FROM data.t WHERE false", "runs"),
    "sample": ("SELECT b FROM data.t TABLESAMPLE system (100)", "mask"),
    "lateral sample": ("SELECT l.b FROM data.u, LATERAL (SELECT b FROM data.t TABLESAMPLE bernoulli (u.id * 100 / u.id)) l", "mask"),
    # -- the row as a value
    "rows distinct": ("SELECT DISTINCT t FROM data.t", "mask"),
    "rows grouped": ("SELECT t, count(*) FROM data.t GROUP BY t ORDER BY t", "mask"),
    "rows compared": ("SELECT x FROM data.t x JOIN data.t y ON x = y", "mask"),
    "row constructor": ("SELECT ROW(t.*), ROW(t) FROM data.t", "mask"),
    "row cast": ("SELECT t::data.t, t::record FROM data.t", "mask"),
    "row IS NULL": ("SELECT t FROM data.t WHERE t IS NULL", "none"),
    "row IS NOT NULL": ("SELECT t FROM data.t WHERE t IS NOT NULL", "mask"),
    "row of subquery": ("SELECT ((SELECT t FROM data.t WHERE id = 2)).b", "mask"),
    "row, coalesced": ("SELECT coalesce(t, NULL), nullif(t, NULL) FROM data.t", "mask"),
    "row in VALUES": ("SELECT v FROM data.t, LATERAL (VALUES (t), (t)) v (r)", "mask"),
    "row in window": ("SELECT lag(t) OVER (ORDER BY t), first_value(t) OVER (PARTITION BY t) FROM data.t", "mask"),
    "row in UNION": ("SELECT t FROM data.t UNION ALL SELECT t FROM data.t", "mask"),
    "row in recursion": ("WITH RECURSIVE x AS (SELECT 1 AS step, t FROM data.t WHERE id = 1 UNION ALL SELECT step + 1, y FROM x, data.t y WHERE y.id = step + 1) TABLE x", "mask"),
    "row in rollup": ("SELECT t, count(*) FROM data.t GROUP BY ROLLUP (t)", "mask"),
    "row in FILTER": ("SELECT array_agg(t) FILTER (WHERE t IS NOT NULL) FROM data.t", "mask"),
    "row of partitions, cast": ("SELECT p::data.p, (p).b FROM data.p ORDER BY p", "mask"),
    "row of partitions, outer join": ("SELECT p FROM data.u LEFT JOIN data.p ON p.id = u.id + 8", "mask"),
    "row of parent": ("SELECT parent, (parent).b FROM data.parent", "mask"),
    "row variable": ("DO $$DECLARE r data.t; BEGIN SELECT * INTO r FROM data.t LIMIT 1; RAISE NOTICE '% %', r, r.b; END$$", "noticed"),
    "ROWS FROM": ("SELECT * FROM data.t, ROWS FROM (unnest(ARRAY[t.b]), unnest(ARRAY[t.k])) r", "mask"),
    "XMLTABLE": ("SELECT x.* FROM data.t, XMLTABLE('/a' PASSING xmlelement(NAME a, t.b) COLUMNS v text PATH '.') x", "mask"),
    "JSON_TABLE": ("SELECT x.* FROM data.t, JSON_TABLE(to_jsonb(t), '$' COLUMNS (b text PATH '$.b')) x", "mask", 17),
    "SEARCH": ("WITH RECURSIVE x (id, b) AS (SELECT id, b FROM data.t WHERE id = 1 UNION ALL SELECT t.id, t.b FROM x JOIN data.t ON t.id = x.id + 1) "
               "SEARCH DEPTH FIRST BY b SET path SELECT * FROM x", "mask"),
    "joins, nested": ("SELECT x.b, y, u.note FROM (data.t x LEFT JOIN (data.u JOIN data.t y ON y.id = u.id) ON x.b = y.b) ORDER BY 1, 2", "mask"),
    "merge join": ("SET LOCAL enable_hashjoin = off;; SET LOCAL enable_nestloop = off;; SELECT x.b FROM data.t x JOIN data.t y USING (b)", "mask"),
    "memoize": ("SET LOCAL enable_hashjoin = off;; SET LOCAL enable_mergejoin = off;; SELECT x.b, y.k FROM data.t x JOIN data.t y ON x.b = y.b", "mask"),
    # -- locks and cursors
    "FOR UPDATE": ("SELECT b FROM data.t WHERE id = 1 FOR UPDATE", "mask"),
    "FOR SHARE OF": ("SELECT t.b FROM data.t, data.u WHERE t.id = u.id FOR SHARE OF t", "mask"),
    "NOWAIT": ("SELECT t FROM data.t ORDER BY b FOR NO KEY UPDATE NOWAIT", "mask"),
    "SKIP LOCKED in CTE": ("WITH x AS (SELECT id, b FROM data.t FOR UPDATE SKIP LOCKED) SELECT * FROM x", "mask"),
    "cursor": ("DECLARE x SCROLL CURSOR FOR SELECT b FROM data.t;; FETCH ALL x;; FETCH BACKWARD 2 x", "mask"),
    "COPY of query": ("COPY (SELECT b FROM data.t) TO STDOUT", "mask"),
    "COPY": ("COPY data.t TO STDOUT", "mask"),
    "COPY as JSON": ("COPY data.t TO STDOUT (FORMAT json)", "mask", 19),
    "COPY of columns": ("COPY data.t (b) TO STDOUT", "mask"),
    "COPY of other columns": ("COPY data.t (id, c) TO STDOUT", "untouched"),
    "COPY with policies": ("COPY data.r TO STDOUT", "mask"),
    "COPY of generated": ("COPY data.g TO STDOUT", "mask"),
    "COPY of partitions": ("COPY data.p1 TO STDOUT", "refused"),
    "COPY of partitioned": ("COPY data.p TO STDOUT", "mask" if int(VERSION) >= 19 else "refused"),
    "COPY of materialized view": ("COPY data.mv TO STDOUT", "refused"),
    # -- partitions, inheritance, policies
    "partitioned": ("SELECT b, tableoid::regclass IS NULL FROM (SELECT b, id AS tableoid FROM data.p) x", "mask"),
    "partitions' rows": ("SELECT p FROM data.p", "mask"),
    "partition by name": ("SELECT b FROM data.p1", "refused"),
    "partition with other columns": ("SELECT b, c FROM data.p WHERE id > 12", "mask"),
    "partitioned for update": ("SELECT b FROM data.p WHERE id = 12 FOR UPDATE", "mask"),
    "inheritance": ("SELECT b FROM data.parent", "mask"),
    "ONLY": ("SELECT b FROM ONLY data.parent", "mask"),
    "child by name": ("SELECT b FROM data.child", "refused"),
    "policy": ("SELECT b FROM data.r", "mask"),
    "policy, leaky": ("SELECT id FROM data.r WHERE play.leak(b) AND play.leak_row(r)", "noticed"),
    "policy, row": ("SELECT r FROM data.r", "mask"),
    "policy, locked": ("SELECT b FROM data.r ORDER BY id", "mask"),
    "generated": ("SELECT b, g FROM data.g", "mask"),
    "generated alone": ("SELECT g FROM data.g WHERE g LIKE '<mask%'", "mask"),
    "generated row": ("SELECT g FROM data.g AS x", "mask"),
    "virtual": ("SELECT virtual, x FROM data.g AS x", "mask", 18),
    "materialized view": ("SELECT b FROM data.mv", "mask"),
    "secret parameters": ("SELECT b FROM data.whole", "mask"),
    "secret parameters shown": ("EXPLAIN (VERBOSE, ANALYZE) SELECT b FROM data.whole", "runs"),
    "all types": ("SELECT * FROM data.types", "mask"),
    "types as row": ("SELECT types::text FROM data.types", "mask"),
    "domain": ("SELECT w IS NULL FROM data.types", "runs"),
    "time zone": ("SET LOCAL timezone = 'Asia/Tokyo';; SELECT at, d FROM data.types", "runs"),
    "view": ("SELECT * FROM data.v", "mask"),
    "view's row": ("SELECT v, to_json(v) FROM data.v", "mask"),
    "view, leaky": ("SELECT id FROM data.v WHERE play.leak(b) AND play.leak_row(v)", "noticed"),
    "view, barrier": ("SELECT vb, b FROM data.vb WHERE play.leak(b)", "mask"),
    "view, joined": ("SELECT v.b FROM data.u LEFT JOIN data.v USING (id)", "mask"),
    "view, locked": ("SELECT b FROM data.v WHERE id = 1 FOR UPDATE", "mask"),
    "view, changed": ("UPDATE data.v SET n = 1 WHERE b LIKE 'CANARY%'", "refused by us"),
    "view, returned": ("UPDATE data.v SET n = 1 RETURNING b", "refused by us"),
    "own view, changed": ("CREATE VIEW play.made AS SELECT id, c, b FROM data.t;; UPDATE play.made SET c = 'x' WHERE b LIKE 'CANARY%'", "refused by us"),
    "own view, of masked rows": ("CREATE VIEW play.made AS SELECT id, c FROM data.t WHERE b LIKE 'CANARY%';; DELETE FROM play.made", "refused by us"),
    "own view, written": ("CREATE VIEW play.made AS SELECT id, b FROM data.t;; INSERT INTO play.made VALUES (100, 'x')", "refused by us"),
    "own view of a view, returned": ("CREATE VIEW play.made AS SELECT id, c, b FROM data.t;; CREATE VIEW play.more AS SELECT * FROM play.made;; "
                                     "UPDATE play.more SET c = 'x' WHERE id = 1 RETURNING b", "refused by us"),
    "invoker view, changed": ("UPDATE data.invoker SET id = id WHERE b LIKE 'CANARY%'", "refused by us", 15),
    "view without masked columns": ("SELECT id FROM data.v", "untouched"),
    # -- writing
    "CREATE TABLE AS": ("CREATE TABLE play.made AS SELECT * FROM data.t;; SELECT * FROM play.made", "mask"),
    "SELECT INTO": ("SELECT b INTO play.made FROM data.t;; SELECT * FROM play.made", "mask"),
    "CREATE MATERIALIZED VIEW": ("CREATE MATERIALIZED VIEW play.made AS SELECT b FROM data.t;; REFRESH MATERIALIZED VIEW play.made;; SELECT * FROM play.made", "mask"),
    "CREATE VIEW": ("CREATE VIEW play.made AS SELECT t FROM data.t;; SELECT * FROM play.made", "mask"),
    "INSERT SELECT": ("INSERT INTO data.target SELECT id + 100, b, k FROM data.t;; SELECT * FROM data.target", "mask"),
    "INSERT by CTE": ("WITH x AS (SELECT b FROM data.t WHERE id = 1) INSERT INTO data.target SELECT 100, b FROM x RETURNING x", "mask"),
    "ON CONFLICT SET": ("INSERT INTO data.target VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET x = (SELECT min(b) FROM data.t) RETURNING x", "mask"),
    "UPDATE FROM": ("UPDATE data.target SET x = t.b FROM data.t WHERE t.id = target.id RETURNING x, t", "mask"),
    "UPDATE of itself": ("UPDATE data.t SET c = s.b FROM data.t s WHERE s.id = t.id RETURNING t.c", "mask"),
    "UPDATE by subquery": ("UPDATE data.t SET c = (SELECT max(b) FROM data.t) RETURNING c", "mask"),
    "UPDATE of several": ("UPDATE data.target SET (x, y) = (SELECT b, k FROM data.t WHERE t.id = target.id) RETURNING x", "mask"),
    "DELETE USING": ("DELETE FROM data.target USING data.t WHERE t.id = target.id RETURNING t.b", "mask"),
    "MERGE": ("MERGE INTO data.target USING data.t ON t.id = target.id WHEN MATCHED THEN UPDATE SET x = t.b "
              "WHEN NOT MATCHED THEN INSERT VALUES (t.id, t.b);; SELECT x FROM data.target", "mask", 15),
    "UPDATE WHERE CURRENT OF": ("DECLARE x CURSOR FOR SELECT b FROM data.t WHERE id = 3;; FETCH x;; "
                                "UPDATE data.t SET c = 'mask-' WHERE CURRENT OF x RETURNING c", "mask"),
    "UPDATE, WHERE": ("UPDATE data.t SET c = 'x' WHERE b LIKE 'CANARY%'", "refused by us"),
    "UPDATE, SET": ("UPDATE data.t SET c = b", "refused by us"),
    "UPDATE, RETURNING": ("UPDATE data.t SET c = 'x' RETURNING b", "refused by us"),
    "UPDATE, RETURNING *": ("UPDATE data.t SET c = 'x' RETURNING *", "refused by us"),
    "UPDATE, RETURNING row": ("UPDATE data.t SET c = 'x' RETURNING t", "refused by us"),
    "UPDATE, RETURNING old": ("UPDATE data.t SET c = 'x' RETURNING old.b", "refused by us", 18),
    "UPDATE, RETURNING new row": ("UPDATE data.t SET c = 'x' RETURNING new", "refused by us", 18),
    "UPDATE of masked": ("UPDATE data.t SET b = 'x'", "refused by us"),
    "UPDATE of masked and others": ("UPDATE data.t SET (c, b) = ('x', 'y') WHERE id = 1", "refused by us"),
    "ON CONFLICT, SET masked": ("INSERT INTO data.t (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET b = 'x'", "refused by us"),
    "ON CONFLICT, SET excluded": ("INSERT INTO data.t (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET c = excluded.b", "refused by us"),
    "ON CONFLICT, SET excluded row": ("INSERT INTO data.t (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET c = excluded::text", "refused by us"),
    "MERGE, SET masked": ("MERGE INTO data.t USING data.target x ON t.id = x.id WHEN MATCHED THEN UPDATE SET b = 'x'", "refused by us", 15),
    "MERGE, INSERT of masked": ("MERGE INTO data.t USING data.target x ON t.id = -x.id WHEN NOT MATCHED THEN INSERT (id, b) VALUES (100, 'x')",
                                "refused by us", 15),
    "UPDATE of partitioned": ("UPDATE data.p SET c = b", "refused by us"),
    "UPDATE of generated": ("UPDATE data.g SET id = 1 RETURNING g", "refused by us"),
    "DELETE": ("DELETE FROM data.t WHERE b LIKE 'CANARY-1%'", "refused by us"),
    "DELETE, RETURNING": ("DELETE FROM data.t RETURNING *", "refused by us"),
    "DELETE by row": ("DELETE FROM data.t WHERE play.leak_row(t)", "refused by us"),
    "INSERT, RETURNING": ("INSERT INTO data.t (id) VALUES (100) RETURNING b", "refused by us"),
    "ON CONFLICT of masked": ("INSERT INTO data.t (id) VALUES (100) ON CONFLICT (k) DO NOTHING", "refused by us"),
    "ON CONFLICT, WHERE": ("INSERT INTO data.t (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET c = 'x' WHERE t.b LIKE 'CANARY%'", "refused by us"),
    "ON CONFLICT, SET": ("INSERT INTO data.t (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET c = t.b", "refused by us"),
    "ON CONFLICT, read": ("INSERT INTO data.t (id) VALUES (1) ON CONFLICT (id) DO SELECT RETURNING b", "refused by us", 19),
    "ON CONFLICT, row": ("INSERT INTO data.t (id) VALUES (1) ON CONFLICT (id) DO SELECT FOR UPDATE RETURNING t", "refused by us", 19),
    "ON CONFLICT, condition": ("INSERT INTO data.t (id) VALUES (1) ON CONFLICT (id) DO SELECT WHERE t.b LIKE 'CANARY%' RETURNING id", "refused by us", 19),
    "MERGE of masked": ("MERGE INTO data.t USING data.target x ON t.id = x.id WHEN MATCHED AND t.b LIKE 'CANARY%' THEN UPDATE SET c = 'x'",
                        "refused by us", 15),
    "MERGE by masked": ("MERGE INTO data.t USING data.target x ON t.b = x.x WHEN MATCHED THEN DELETE", "refused by us", 15),
    "MERGE, SET": ("MERGE INTO data.t USING data.target x ON t.id = x.id WHEN MATCHED THEN UPDATE SET c = t.b", "refused by us", 15),
    "MERGE, RETURNING": ("MERGE INTO data.t USING data.target x ON t.id = x.id WHEN MATCHED THEN UPDATE SET c = '' RETURNING t.b", "refused by us", 17),
    "INSERT of masked": ("INSERT INTO data.t (id, b) VALUES (100, 'x')", "refused by us"),
    "INSERT of all": ("INSERT INTO data.t VALUES (100, 1, 'x', 'c', 1)", "refused by us"),
    "COPY FROM": ("COPY data.t FROM STDIN", "refused by us"),
    "COPY FROM of masked": ("COPY data.t (id, b) FROM STDIN", "refused by us"),
    "COPY FROM WHERE": ("COPY data.t (id) FROM STDIN WHERE n = 1 AND data.t.b IS NULL", "refused by us"),
    "COPY FROM of partitioned": ("COPY data.p FROM STDIN", "refused by us"),
    "duplicate key": ("INSERT INTO data.t (id, n) VALUES (1, 1)", "23505"),
    "CREATE TABLE LIKE": ("CREATE TABLE play.made (LIKE data.t INCLUDING ALL)", "refused"),
    "INHERITS": ("CREATE TABLE play.made () INHERITS (data.t)", "refused"),
    "TRUNCATE": ("TRUNCATE data.t", "refused"),
    "REPACK": ("REPACK data.t", "refused", 19),
    "foreign key": ("CREATE TABLE play.made (k int REFERENCES data.t (k))", "refused"),
    "ANALYZE": ("ANALYZE data.t (b)", "untouched"),
    # -- by others' names
    "own view": ("SELECT * FROM play.mine", "mask"),
    "own barrier": ("SELECT * FROM play.barrier WHERE play.leak(b)", "mask"),
    "invoker view": ("SELECT * FROM data.invoker", "mask", 15),
    "scalar function": ("SELECT play.scalar(1)", "mask"),
    "set function": ("SELECT * FROM play.set()", "mask"),
    "set function in select list": ("SELECT play.set()", "mask"),
    "set function, lateral": ("SELECT s FROM data.u, play.set() s", "mask"),
    "rows of function": ("SELECT b FROM play.rows()", "mask"),
    "BEGIN ATOMIC": ("SELECT * FROM play.parsed()", "mask"),
    "plpgsql": ("SELECT * FROM play.static()", "mask"),
    "dynamic": ("SELECT * FROM play.dynamic()", "mask"),
    "loop": ("SELECT * FROM play.cursor()", "mask"),
    "own definer": ("SELECT * FROM play.definer()", "mask"),
    "row as argument": ("SELECT play.of_row(t) FROM data.t", "mask"),
    "DO": ("DO $$DECLARE r record; BEGIN FOR r IN SELECT * FROM data.t LOOP RAISE NOTICE '%', r; END LOOP; END$$", "noticed"),
    "rule": ("INSERT INTO play.sunk VALUES (1, '');; SELECT x FROM play.sink", "mask"),
    "trigger": ("INSERT INTO play.triggered VALUES ('');; SELECT x FROM play.triggered", "mask"),
    "default": ("INSERT INTO play.defaults DEFAULT VALUES;; SELECT x FROM play.defaults", "mask"),
    "own policy": ("SELECT * FROM play.policed", "noticed"),
    "query_to_xml": ("SELECT query_to_xml('SELECT b FROM data.t', true, true, '')", "mask"),
    "table_to_xml": ("SELECT table_to_xml('data.t', true, true, '')", "mask"),
    "cursor_to_xml": ("DECLARE x CURSOR FOR SELECT b FROM data.t;; SELECT cursor_to_xml('x', 10, true, true, '')", "mask"),
    "ts_stat": ("SELECT word FROM ts_stat($$SELECT to_tsvector('simple', b) FROM data.t$$)", "runs"),
    # -- what shows plans and statistics
    "EXPLAIN": ("EXPLAIN (VERBOSE) SELECT b FROM data.t WHERE b = 'CANARY-' || 1", "runs"),
    "EXPLAIN ANALYZE": ("EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM data.t ORDER BY b", "runs"),
    "EXPLAIN EXECUTE": ("PREPARE x AS SELECT b FROM data.t WHERE id = $1;; EXPLAIN (VERBOSE) EXECUTE x (1);; DEALLOCATE x", "runs"),
    "EXPLAIN UPDATE": ("EXPLAIN UPDATE data.t SET c = b", "refused by us"),
    "tree in messages": ("SET LOCAL debug_print_plan = on;; SET LOCAL client_min_messages = log;; SELECT b FROM data.whole", "mask"),
    "pg_stats": ("SELECT * FROM pg_stats WHERE schemaname = 'data' AND attname IN ('b', 'k', 'g', 'w')", "untouched"),
    "pg_statistic": ("SELECT * FROM pg_statistic", "refused"),
    "owner's parameters": ("SELECT * FROM immuta.mask_parameters", "refused"),
    "owner's masks": ("SELECT * FROM immuta.masks", "refused"),
    "parallel": ("SET LOCAL parallel_setup_cost = 0;; SET LOCAL parallel_tuple_cost = 0;; SET LOCAL min_parallel_table_scan_size = 0;; "
                 "SELECT b, t FROM data.t", "mask"),
    "JIT": ("SET LOCAL jit = on;; SET LOCAL jit_above_cost = 0;; SELECT b, t FROM data.t", "mask"),
}

NAMED = [name for name, attack in ATTACKS.items() if len(attack) < 3 or int(VERSION) >= attack[2]]


def shown(seen, statements):
    """Without what the attack itself says."""
    text = seen.text
    for word in re.findall(r"'(?:CANARY|canary)[^']*'", statements):
        text = text.replace(word, "")
    return text


def logged(world, begin, statements):
    """What the log says since, but for what the statements say, and numbers of processes."""
    text = re.sub(r"\[\d+\]|'CANARY|\d+\.\d+", "", world.server.log(begin))
    for said in re.findall(r"\b77\d{4}\b", statements):
        text = text.replace(said, "")
    return text


@pytest.mark.parametrize("name", NAMED)
def test_masked(masked, sessions, name):
    statements, expected = ATTACKS[name][:2]
    begin = masked.server.logged()
    seen = run(sessions(), statements)
    assert not CANARY.search(logged(masked, begin, statements))
    assert not CANARY.search(re.sub(r"= '?CANARY|~~ 'CANARY|'CANARY", "", shown(seen, statements))), seen.text
    if expected == "refused by us":
        assert (seen.sqlstate, seen.code) == ("42501", "MASKED_COLUMN") and seen.hint, seen.text
    elif expected == "refused":
        assert seen.sqlstate == "42501", seen.text
    elif expected in ("mask", "noticed", "none", "runs", "untouched"):
        assert seen.sqlstate is None, seen.text
        assert expected != "mask" or "mask-" in str(seen.rows), seen.text
        assert expected != "noticed" or "mask-" in seen.text, seen.text
        assert expected != "none" or seen.rows == [], seen.text
    else:
        assert seen.sqlstate == expected, seen.text


@pytest.mark.parametrize("name", NAMED)
def test_refused_where_nothing_is_rewritten(sessions, name):
    statements, expected = ATTACKS[name][:2]
    seen = run(sessions(database="off"), statements)
    assert not CANARY.search(shown(seen, statements)), seen.text
    assert seen.sqlstate == (None if expected == "untouched" else "23505" if expected == "23505" else "42501"), seen.text


# What a user may not do under a token at all.
NOT_UNDER_A_TOKEN = ("PREPARE", "ANALYZE", "LOCK")


@pytest.mark.parametrize("name", [name for name in NAMED if not any(word in ATTACKS[name][0] for word in NOT_UNDER_A_TOKEN)])
def test_under_a_token(masked, tokens, service, name):
    from harness.world import impersonate
    statements, expected = ATTACKS[name][:2]
    impersonate(service, tokens)
    seen = run(service, statements)
    assert not CANARY.search(re.sub(r"= '?CANARY|~~ 'CANARY|'CANARY", "", shown(seen, statements))), seen.text
    if seen.code == "IMPERSONATION_ACTIVE":
        return
    if expected in ("mask", "none", "runs", "noticed", "untouched"):
        assert seen.sqlstate is None, seen.text
        assert expected != "mask" or "mask-" in str(seen.rows), seen.text
    else:
        assert seen.sqlstate == ("42501" if expected.startswith("refused") else expected), seen.text


def test_the_attacks_would_find_something(masked):
    """The positive control: as the owner, the same statements show what is masked."""
    connection = masked.connect("data_owner", "owner-password")
    found = [name for name in NAMED if ATTACKS[name][1] == "mask" and "play." not in ATTACKS[name][0]
             and CANARY.search(run(connection, ATTACKS[name][0]).text)]
    assert len(found) > 60
    begin, fails = masked.server.logged(), "SELECT b::int FROM data.t"
    run(connection, fails)
    assert CANARY.search(logged(masked, begin, fails))
    connection.close()
