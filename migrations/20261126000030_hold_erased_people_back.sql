-- People who were erased write on in chats that are watched. What is stored there of them is a row that says of nobody: it counts,
-- since a watch is measured against the messages that exist.

-- Which of these marks are of people who were erased. Until the transaction ends nobody else's erasure begins: what it is about
-- to store of them would come after the erasure has read its table. `key_check`: of the key that the marks were made with; with
-- another one nobody would be found.
CREATE FUNCTION erased_marks(marks bytea[], checked bytea) RETURNS SETOF bytea LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('wireroom.erased_people', 0));
    -- A statement of its own: it sees what was committed while the lock was waited for.
    IF NOT EXISTS (SELECT FROM erased_people) THEN
        RETURN;
    END IF;
    IF (SELECT s.key_check IS NOT NULL AND s.key_check IS DISTINCT FROM checked FROM outreach_switch s) THEN
        RAISE EXCEPTION 'people are marked with another WIREROOM_PERSON_KEY than this process has';
    END IF;
    RETURN QUERY SELECT e.user_hash FROM erased_people e WHERE e.user_hash = ANY (marks);
END $$;

-- As before, and the keys that may name somebody because a user chooses them: of a standing search, of a rate, of a request. A row with
-- such a key (`key`) is theirs; names of schedules and campaigns are unique, and no keys.
CREATE OR REPLACE FUNCTION columns_about_people() RETURNS TABLE (tab text, col text, kind text) LANGUAGE sql STABLE AS $$
    WITH keys (tab, col, kind) AS (
        VALUES ('search_finds', 'search_key', 'key'), ('rate_buckets', 'key', 'key'), ('idempotency_keys', 'key', 'key'),
            ('schedules', 'name', 'text'), ('campaigns', 'name', 'text')
    )
    SELECT c.relname::text, a.attname::text, coalesce(k.kind, CASE
            WHEN a.atttypid = 'bigint'::regtype THEN 'row'
            WHEN a.atttypid = 'jsonb'::regtype THEN 'json'
            WHEN a.atttypid = 'text[]'::regtype THEN 'texts' ELSE 'text' END)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN keys k ON k.tab = c.relname AND k.col = a.attname
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attgenerated = '' AND a.attidentity = ''
        AND c.relname NOT IN ('_sqlx_migrations', 'schema_compatibility', 'audit_log')
        AND ((a.atttypid = 'bigint'::regtype AND (a.attname IN ('user_id', 'resolved_id', 'peer_id', 'sender_id', 'chat_id')
                OR (c.relname IN ('people', 'chats') AND a.attname = 'id')))
            OR a.atttypid = 'jsonb'::regtype OR k.kind IS NOT NULL
            OR (a.atttypid IN ('text'::regtype, 'text[]'::regtype) AND NOT EXISTS (
                SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND a.attnum = ANY (i.indkey::smallint[]))))
    -- Whole rows first: what is left of others is looked through after them.
    ORDER BY a.atttypid = 'bigint'::regtype DESC, 1, 2
$$;

-- How to read a table for a person, as before; tags and the names of searches are words that users have chosen, and are theirs when
-- they are their name alone, too. A message of theirs in somebody else's chat stays as nobody's, or a watch would miss it when
-- it compares what it has with what there is.
CREATE OR REPLACE FUNCTION erasure_plan(leaf regclass, OUT tab text, OUT keys text, OUT key_texts text, OUT after_lower text,
    OUT to_upper text, OUT theirs text, OUT changes text, OUT contents text) LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT relname INTO tab FROM pg_class WHERE oid = coalesce(pg_partition_root(leaf), leaf);
    SELECT string_agg(format('%I', a.attname), ', ' ORDER BY k.n),
            string_agg(format('%I::text', a.attname), ', ' ORDER BY k.n),
            string_agg(format('$1[%s]::%s', k.n, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY k.n),
            string_agg(format('$2[%s]::%s', k.n, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY k.n)
        INTO keys, key_texts, after_lower, to_upper
        FROM pg_index i, unnest(i.indkey::smallint[]) WITH ORDINALITY k (attnum, n), pg_attribute a
        WHERE i.indrelid = leaf AND i.indisprimary AND a.attrelid = leaf AND a.attnum = k.attnum;
    -- Column by column: a word that happens to be somebody's name, as a kind or a state, is left where nothing names them.
    SELECT string_agg(CASE kind WHEN 'row' THEN format('%I = $3', col)
                ELSE format('%1$I ~* $5 OR lower(ltrim(%1$I, ''@'')) = ANY ($4)', col) END, ' OR ')
                FILTER (WHERE kind IN ('row', 'key')),
            string_agg(format('%1$I = CASE WHEN %2$s ~* $5 THEN %3$s ELSE %1$I END', col, content,
                CASE kind WHEN 'json' THEN format('erase_from_json(%I, $3, $4)', col)
                    WHEN 'texts' THEN format('ARRAY(SELECT erase_from_text(t, $3, $4) FROM unnest(%I) t)', col)
                    ELSE format('erase_from_text(%I, $3, $4)', col)
                        || CASE WHEN c.tab IN ('schedules', 'campaigns') AND col = 'name' THEN ' || '' '' || id' ELSE '' END END), ', ')
                FILTER (WHERE kind NOT IN ('row', 'key')),
            string_agg(content, ', ') FILTER (WHERE kind NOT IN ('row', 'key'))
        INTO theirs, changes, contents
        FROM columns_about_people() c, LATERAL (SELECT CASE WHEN kind = 'texts' OR col = 'search_key'
            THEN format('to_json(%I)::text', col) ELSE format('%I::text', col) END AS content) d
        WHERE c.tab = erasure_plan.tab;
    IF tab = 'messages' THEN
        theirs := 'chat_id = $3';
        changes := 'content = CASE WHEN sender_id IS DISTINCT FROM $3 THEN erase_from_json(content, $3, $4) END, '
            'digest = CASE WHEN sender_id IS DISTINCT FROM $3 THEN digest ELSE 0 END, sender_id = NULLIF(sender_id, $3)';
        contents := 'sender_id::text, content::text';
    END IF;
END $$;

-- As before; whose a row is may depend on the person's names, too. Goes on with an erasure until it is done or `patience` is over; whether it is done. A step that fails changes nothing, and the next
-- one begins where it did. By the primary key even where statistics say otherwise: they are old while a table grows.
CREATE OR REPLACE FUNCTION continue_erasure(erasure uuid, patience interval) RETURNS boolean LANGUAGE plpgsql
    SET enable_seqscan = off SET jit = off AS $$
DECLARE
    together CONSTANT int := 500;
    -- How long it takes is no time that two processes compare.
    began CONSTANT timestamptz := clock_timestamp();
    e erasures;
    plan record;
    planned text;
    pattern text;
    upper_key text[];
    range text;
    n bigint;
    m bigint;
BEGIN
    SELECT * INTO e FROM erasures WHERE id = erasure AND state = 'working' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN EXISTS (SELECT FROM erasures WHERE id = erasure);
    END IF;
    pattern := pattern_of_person(e.person, e.names);
    LOOP
        EXIT WHEN cardinality(e.tables) = 0;
        -- A day's partition may have been retired meanwhile.
        IF to_regclass(quote_ident(e.tables[1])) IS NULL THEN
            e.tables := e.tables[2:];
            e.place := NULL;
            CONTINUE;
        END IF;
        IF planned IS DISTINCT FROM e.tables[1]::text THEN
            planned := e.tables[1];
            SELECT * INTO plan FROM erasure_plan(quote_ident(planned)::regclass);
        END IF;
        upper_key := NULL;
        range := 'true';
        IF plan.keys IS NOT NULL THEN
            IF e.place IS NOT NULL THEN
                range := format('(%s) > (%s)', plan.keys, plan.after_lower);
            END IF;
            EXECUTE format('SELECT ARRAY[%s] FROM %I WHERE %s ORDER BY %s OFFSET %s LIMIT 1',
                plan.key_texts, planned, range, plan.keys, together - 1) INTO upper_key USING e.place;
            IF upper_key IS NOT NULL THEN
                range := range || format(' AND (%s) <= (%s)', plan.keys, plan.to_upper);
            END IF;
        END IF;
        n := 0;
        IF plan.theirs IS NOT NULL THEN
            EXECUTE format('DELETE FROM %I WHERE %s AND (%s)', planned, range, plan.theirs)
                USING e.place, upper_key, e.person, e.names::text[], pattern;
            GET DIAGNOSTICS n = ROW_COUNT;
        END IF;
        IF plan.changes IS NOT NULL THEN
            EXECUTE format('UPDATE %I SET %s WHERE %s AND concat_ws(chr(10), %s) ~* $5', planned, plan.changes, range, plan.contents)
                USING e.place, upper_key, e.person, e.names::text[], pattern;
            GET DIAGNOSTICS m = ROW_COUNT;
            n := n + m;
        END IF;
        IF n > 0 THEN
            e.changed := e.changed || jsonb_build_object(plan.tab, coalesce((e.changed ->> plan.tab)::bigint, 0) + n);
        END IF;
        IF upper_key IS NULL THEN
            e.tables := e.tables[2:];
            e.place := NULL;
        ELSE
            e.place := upper_key;
            e.rows_read := e.rows_read + together;
        END IF;
        -- However little there is: something of it is done each time.
        EXIT WHEN clock_timestamp() >= began + patience;
    END LOOP;
    IF cardinality(e.tables) = 0 THEN
        UPDATE erasures SET tables = '{}', place = NULL, rows_read = e.rows_read, changed = e.changed, state = 'done', person = NULL,
            names = NULL, finished_at = wireroom_now() WHERE id = erasure;
        RETURN true;
    END IF;
    UPDATE erasures SET tables = e.tables, place = e.place, rows_read = e.rows_read, changed = e.changed WHERE id = erasure;
    RETURN false;
END $$;

-- What is known of a person in one table: rows that are theirs, and rows that name them, at most so many. Table by table, since one
-- statement over all of them passes the statement limit of a large database.
CREATE FUNCTION export_person_from(person bigint, of_table text, most int) RETURNS SETOF jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    condition text;
BEGIN
    SELECT string_agg(CASE kind
            WHEN 'row' THEN format('%I = $1', col)
            WHEN 'texts' THEN format('to_json(%I)::text ~* $2', col)
            ELSE format('%I::text ~* $2', col) END, ' OR ') INTO condition
        FROM columns_about_people() WHERE tab = of_table;
    -- Keys and what is sealed are nobody's to read.
    RETURN QUERY EXECUTE format('SELECT to_jsonb(t) - ''access_hash'' - ''random_id'' FROM (SELECT * FROM %I WHERE %s LIMIT $3) t',
        of_table, condition) USING person, pattern_of_person(person, names_of_person(person)), most;
END $$;

-- The release before reads no marks by the function, and erases by the plan as it is now.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261126000030, 20261120000015);
