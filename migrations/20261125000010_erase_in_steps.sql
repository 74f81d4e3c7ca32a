-- Erasing a person in steps. One statement over every table passes the statement limit of a large database; so a person's erasure is
-- a row that says how far it has come, and each step goes on for as long as it may. Tables are read in the order of their primary
-- keys, which no update changes: a row cannot slip from what is still to be read into what was read already. What moves on from one
-- table to another (jobs that end, events that are numbered) is read before the partitions it moves to.

-- While one is `working` it has to know whom it looks for; nothing of that is left when it is `done`. Its lists are varchar[], so that
-- columns_about_people() does not take them for a place where people are erased.
CREATE TABLE erasures (
    id uuid PRIMARY KEY,
    mark bytea NOT NULL CHECK (octet_length(mark) = 32),
    person bigint,
    -- In lower case.
    names varchar[],
    state text NOT NULL DEFAULT 'working' CHECK (state IN ('working', 'done')),
    -- What is left to be read, partitions by themselves; the first one is read up to the key `place`.
    tables varchar[] NOT NULL,
    place varchar[],
    rows_read bigint NOT NULL DEFAULT 0,
    -- How many rows of each table were deleted or changed.
    changed jsonb NOT NULL DEFAULT '{}',
    requested_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT wireroom_now(),
    finished_at timestamptz,
    CHECK ((state = 'working') = (person IS NOT NULL) AND (state = 'working') = (names IS NOT NULL)),
    CHECK ((state = 'done') = (finished_at IS NOT NULL))
);
CREATE UNIQUE INDEX erasures_working ON erasures (mark) WHERE state = 'working';

-- How to read a table for a person: its key, what makes a row theirs, and what is changed where they are named.
CREATE FUNCTION erasure_plan(leaf regclass, OUT tab text, OUT keys text, OUT key_texts text, OUT after_lower text, OUT to_upper text,
    OUT theirs text, OUT changes text, OUT contents text) LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT relname INTO tab FROM pg_class WHERE oid = coalesce(pg_partition_root(leaf), leaf);
    SELECT string_agg(format('%I', a.attname), ', ' ORDER BY k.n),
            string_agg(format('%I::text', a.attname), ', ' ORDER BY k.n),
            string_agg(format('$1[%s]::%s', k.n, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY k.n),
            string_agg(format('$2[%s]::%s', k.n, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY k.n)
        INTO keys, key_texts, after_lower, to_upper
        FROM pg_index i, unnest(i.indkey::smallint[]) WITH ORDINALITY k (attnum, n), pg_attribute a
        WHERE i.indrelid = leaf AND i.indisprimary AND a.attrelid = leaf AND a.attnum = k.attnum;
    SELECT string_agg(format('%I = $3', col), ' OR ') FILTER (WHERE kind = 'row'),
            -- Column by column: a word that happens to be somebody's name, as a kind or a state, is left where nothing names them.
            string_agg(format('%1$I = CASE WHEN %2$s ~* $5 THEN %3$s ELSE %1$I END', col,
                CASE kind WHEN 'texts' THEN format('array_to_string(%I, '' '')', col) ELSE format('%I::text', col) END,
                CASE kind WHEN 'json' THEN format('erase_from_json(%I, $3, $4)', col)
                    WHEN 'texts' THEN format('ARRAY(SELECT erase_from_text(t, $3, $4) FROM unnest(%I) t)', col)
                    ELSE format('erase_from_text(%I, $3, $4)', col) END), ', ') FILTER (WHERE kind <> 'row'),
            string_agg(CASE kind WHEN 'texts' THEN format('array_to_string(%I, '' '')', col) ELSE format('%I::text', col) END, ', ')
                FILTER (WHERE kind <> 'row')
        INTO theirs, changes, contents
        FROM columns_about_people() c WHERE c.tab = erasure_plan.tab;
END $$;

-- Begins a person's erasure, or finds the one that is under way. From here on they are known by their mark alone to whoever scans or
-- lists people.
CREATE FUNCTION begin_erasure(new_id uuid, who bigint, person_mark bytea, actor text) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    known varchar[] := names_of_person(who);
    begun uuid;
    gone bigint;
    all_changed jsonb := '{}';
BEGIN
    INSERT INTO erased_people (user_hash) VALUES (person_mark) ON CONFLICT DO NOTHING;
    SELECT id INTO begun FROM erasures WHERE mark = person_mark AND state = 'working';
    IF FOUND THEN
        RETURN begun;
    END IF;
    DELETE FROM suppressions WHERE username = ANY (known);
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone > 0 THEN
        all_changed := all_changed || jsonb_build_object('suppressions', gone);
    END IF;
    DELETE FROM campaign_people WHERE username = ANY (known);
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone > 0 THEN
        all_changed := all_changed || jsonb_build_object('campaign_people', gone);
    END IF;
    INSERT INTO erasures (id, mark, person, names, tables, changed, requested_by)
    SELECT new_id, person_mark, who, known, array_agg(l.leaf ORDER BY l.is_part, l.leaf), all_changed, actor
    FROM (SELECT c.relname AS leaf, c.relispartition AS is_part
        FROM (SELECT DISTINCT tab FROM columns_about_people()) t, pg_partition_tree(t.tab::regclass) p, pg_class c
        WHERE p.isleaf AND c.oid = p.relid
        UNION SELECT t.tab, false FROM (SELECT DISTINCT tab FROM columns_about_people()) t, pg_class c
        WHERE c.oid = t.tab::regclass AND c.relkind = 'r') l;
    RETURN new_id;
END $$;

-- Goes on with an erasure until it is done or `patience` is over; whether it is done. A step that fails changes nothing, and the next
-- one begins where it did. By the primary key even where statistics say otherwise: they are old while a table grows.
CREATE FUNCTION continue_erasure(erasure uuid, patience interval) RETURNS boolean LANGUAGE plpgsql
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
                USING e.place, upper_key, e.person;
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

-- The release before erases at once, and knows none of it.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261125000010, 20261120000015);
