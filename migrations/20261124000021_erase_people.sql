-- Erasing a person from every table, and showing all that is known of one. By the catalogue and not by a list, so that a table
-- that comes later is reached without anybody thinking of it: rows are a person's when a column of theirs says so (user_id,
-- resolved_id, peer_id, sender_id, or chat_id of the private chat with them), and what is in JSON is found where it is.

-- The names by which a person is known here, in lower case.
CREATE FUNCTION names_of_person(person bigint) RETURNS text[] LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(DISTINCT lower(n.name)), '{}') FROM (
        SELECT username AS name FROM people WHERE id = person
        UNION SELECT username FROM scan_members WHERE user_id = person
        UNION SELECT username FROM campaign_people WHERE resolved_id = person
    ) n WHERE n.name ~* '^[a-z0-9_]+$'
$$;

-- A pattern for texts that name the person: the id as a whole number, a name after `@`, in a link, or as a whole JSON string.
CREATE FUNCTION pattern_of_person(person bigint, names text[]) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT '(^|[^0-9-])' || person || '($|[^0-9])' || CASE WHEN names = '{}' THEN ''
        ELSE '|(@|t\.me/|")(' || array_to_string(names, '|') || ')($|[^a-z0-9_])' END
$$;

-- A text without the person.
CREATE FUNCTION erase_from_text(value text, person bigint, names text[]) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN lower(ltrim(value, '@')) = ANY (names) THEN '[erased]'
        WHEN names = '{}' THEN regexp_replace(value, '(^|[^0-9-])' || person || '(?![0-9])', '\1[erased]', 'g')
        ELSE regexp_replace(regexp_replace(value, '(^|[^0-9-])' || person || '(?![0-9])', '\1[erased]', 'g'),
            '(@|t\.me/)(' || array_to_string(names, '|') || ')(?![a-z0-9_])', '\1[erased]', 'gi') END
$$;

-- A document without the person: of an object that is about them no text is left, and from lists they are taken out.
CREATE FUNCTION erase_from_json(value jsonb, person bigint, names text[]) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    is_theirs boolean;
BEGIN
    CASE jsonb_typeof(value)
    WHEN 'object' THEN
        SELECT coalesce(bool_or(v = to_jsonb(person) OR v = to_jsonb(person::text)
            OR (jsonb_typeof(v) = 'string' AND lower(ltrim(v #>> '{}', '@')) = ANY (names))), false)
            INTO is_theirs FROM jsonb_each(value) e(k, v);
        RETURN (SELECT coalesce(jsonb_object_agg(k, CASE
            WHEN v = to_jsonb(person) THEN 'null'
            WHEN is_theirs AND jsonb_typeof(v) = 'string' AND k NOT IN ('code', 'kind', 'state', 'type', 'basis', 'mode', 'campaign')
                THEN 'null'
            ELSE erase_from_json(v, person, names) END), '{}') FROM jsonb_each(value) e(k, v));
    WHEN 'array' THEN
        RETURN (SELECT coalesce(jsonb_agg(erase_from_json(v, person, names) ORDER BY n), '[]')
            FROM jsonb_array_elements(value) WITH ORDINALITY e(v, n)
            WHERE NOT (v = to_jsonb(person) OR v = to_jsonb(person::text)
                OR (jsonb_typeof(v) = 'string' AND lower(ltrim(v #>> '{}', '@')) = ANY (names))));
    WHEN 'string' THEN
        RETURN to_jsonb(erase_from_text(value #>> '{}', person, names));
    WHEN 'number' THEN
        RETURN CASE WHEN value = to_jsonb(person) THEN 'null'::jsonb ELSE value END;
    ELSE
        RETURN value;
    END CASE;
END $$;

-- The columns of tables that may be about people, partitions left to their parents. `kind`: `row` (the row is theirs), `json`,
-- `text` or `texts` (it may hold them). Keys of tables and what is append-only are no place for people.
CREATE FUNCTION columns_about_people() RETURNS TABLE (tab text, col text, kind text) LANGUAGE sql STABLE AS $$
    SELECT c.relname::text, a.attname::text, CASE
            WHEN a.atttypid = 'bigint'::regtype THEN 'row'
            WHEN a.atttypid = 'jsonb'::regtype THEN 'json'
            WHEN a.atttypid = 'text[]'::regtype THEN 'texts' ELSE 'text' END
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attgenerated = '' AND a.attidentity = ''
        AND c.relname NOT IN ('_sqlx_migrations', 'schema_compatibility', 'audit_log')
        AND ((a.atttypid = 'bigint'::regtype AND (a.attname IN ('user_id', 'resolved_id', 'peer_id', 'sender_id', 'chat_id')
                OR (c.relname IN ('people', 'chats') AND a.attname = 'id')))
            OR a.atttypid = 'jsonb'::regtype
            OR (a.atttypid IN ('text'::regtype, 'text[]'::regtype) AND NOT EXISTS (
                SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND a.attnum = ANY (i.indkey::smallint[]))))
    -- Whole rows first: what is left of others is looked through after them.
    ORDER BY a.atttypid = 'bigint'::regtype DESC, 1, 2
$$;

-- Removes a person from every table; how many rows of each were deleted or changed.
CREATE FUNCTION erase_person(person bigint, mark bytea) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    names text[] := names_of_person(person);
    pattern text := pattern_of_person(person, names);
    done jsonb := '{}';
    changed bigint;
    c record;
BEGIN
    INSERT INTO erased_people (user_hash) VALUES (mark) ON CONFLICT DO NOTHING;
    DELETE FROM suppressions WHERE username = ANY (names);
    DELETE FROM campaign_people WHERE username = ANY (names);
    FOR c IN SELECT * FROM columns_about_people() LOOP
        CASE c.kind
        WHEN 'row' THEN
            EXECUTE format('DELETE FROM %I WHERE %I = $1', c.tab, c.col) USING person;
        WHEN 'json' THEN
            EXECUTE format('UPDATE %1$I SET %2$I = erase_from_json(%2$I, $1, $2) WHERE %2$I::text ~* $3', c.tab, c.col)
                USING person, names, pattern;
        WHEN 'texts' THEN
            EXECUTE format('UPDATE %1$I SET %2$I = ARRAY(SELECT erase_from_text(t, $1, $2) FROM unnest(%2$I) t) '
                'WHERE array_to_string(%2$I, '' '') ~* $3', c.tab, c.col) USING person, names, pattern;
        ELSE
            EXECUTE format('UPDATE %1$I SET %2$I = erase_from_text(%2$I, $1, $2) WHERE %2$I ~* $3', c.tab, c.col)
                USING person, names, pattern;
        END CASE;
        GET DIAGNOSTICS changed = ROW_COUNT;
        IF changed > 0 THEN
            done := done || jsonb_build_object(c.tab, coalesce((done ->> c.tab)::bigint, 0) + changed);
        END IF;
    END LOOP;
    RETURN done;
END $$;

-- Everything that is known of a person: rows that are theirs, and rows that name them, by table.
CREATE FUNCTION export_person(person bigint) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    names text[] := names_of_person(person);
    pattern text := pattern_of_person(person, names);
    found jsonb;
    all_found jsonb := '{}';
    c record;
BEGIN
    FOR c IN SELECT tab, string_agg(CASE kind
            WHEN 'row' THEN format('%I = $1', col)
            WHEN 'texts' THEN format('array_to_string(%I, '' '') ~* $2', col)
            ELSE format('%I::text ~* $2', col) END, ' OR ') AS condition
        FROM columns_about_people() GROUP BY tab ORDER BY tab LOOP
        -- Keys and what is sealed are nobody's to read.
        EXECUTE format('SELECT jsonb_agg(to_jsonb(t) - ''access_hash'' - ''random_id'') FROM (SELECT * FROM %I WHERE %s LIMIT 10000) t',
            c.tab, c.condition) INTO found USING person, pattern;
        IF found IS NOT NULL THEN
            all_found := all_found || jsonb_build_object(c.tab, found);
        END IF;
    END LOOP;
    RETURN all_found;
END $$;

-- The release before calls none of it.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261124000021, 20261120000015);
