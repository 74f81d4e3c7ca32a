-- An erasure takes out what names the person, and nothing that merely reads as their name does: `members` is a word of ours, and
-- somebody's username. And where people were chosen, those who were not chosen are not chosen by it: no list of whom a job, a
-- schedule or a watch is about becomes empty, which would mean everybody.

-- Whether a key stands before names of people or chats, so that a name is one without `@`, too. Elsewhere a word is a word.
CREATE FUNCTION holds_names(key text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(key ~* '(^|_)(username|user|person|people|member|sender|from|to|chat|peer|author|target)(s|_name|_names)?$', false)
        OR key IS NOT DISTINCT FROM 'names'
$$;

-- Whether a value, at the place of that key, is the person: their id, or a name of theirs.
CREATE FUNCTION is_person(key text, value jsonb, person bigint, names text[]) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT value = to_jsonb(person) OR value = to_jsonb(person::text)
        OR (jsonb_typeof(value) = 'string' AND lower(ltrim(value #>> '{}', '@')) = ANY (names)
            AND (holds_names(key) OR (value #>> '{}' LIKE '@%' AND key IS DISTINCT FROM 'text')))
$$;

-- A document, at the place of that key, without the person: of an object that is about them no text is left, and from lists they are
-- taken out. A list of nobody else is left with what matches nobody: no account has the id 0, and no username ends in an underscore.
CREATE FUNCTION erase_from_json(value jsonb, person bigint, names text[], key text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    is_theirs boolean;
    others jsonb;
BEGIN
    CASE jsonb_typeof(value)
    WHEN 'object' THEN
        SELECT coalesce(bool_or(is_person(k, v, person, names)), false) INTO is_theirs FROM jsonb_each(value) e(k, v);
        RETURN (SELECT coalesce(jsonb_object_agg(k, CASE
            WHEN v = to_jsonb(person) THEN 'null'
            WHEN is_theirs AND jsonb_typeof(v) = 'string' AND k NOT IN ('code', 'kind', 'state', 'type', 'basis', 'mode', 'campaign')
                THEN 'null'
            -- In what is about them, every word that reads as their name is it.
            ELSE erase_from_json(v, person, names, CASE WHEN is_theirs THEN 'names' ELSE k END) END), '{}')
            FROM jsonb_each(value) e(k, v));
    WHEN 'array' THEN
        SELECT jsonb_agg(erase_from_json(v, person, names, key) ORDER BY n) INTO others
            FROM jsonb_array_elements(value) WITH ORDINALITY e(v, n) WHERE NOT is_person(key, v, person, names);
        RETURN coalesce(others, CASE jsonb_typeof(value -> 0) WHEN 'number' THEN '[0]' WHEN 'string' THEN '["@erased__"]' ELSE '[]' END::jsonb);
    WHEN 'string' THEN
        -- A word by itself, where no names stand.
        IF lower(value #>> '{}') = ANY (names) AND NOT holds_names(key) THEN
            RETURN value;
        END IF;
        RETURN to_jsonb(erase_from_text(value #>> '{}', person, names));
    WHEN 'number' THEN
        RETURN CASE WHEN value = to_jsonb(person) THEN 'null'::jsonb ELSE value END;
    ELSE
        RETURN value;
    END CASE;
END $$;

-- As the plan of an erasure calls it: a whole column.
CREATE OR REPLACE FUNCTION erase_from_json(value jsonb, person bigint, names text[]) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT erase_from_json(value, person, names, NULL)
$$;

-- Whoever has read a watch's filter reads it again when it is another one, whatever changes it.
CREATE FUNCTION raise_watch_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    RETURN NEW;
END $$;
CREATE TRIGGER watches_raise_version BEFORE UPDATE OF filter ON watches FOR EACH ROW
    WHEN (NEW.filter IS DISTINCT FROM OLD.filter AND NEW.version = OLD.version) EXECUTE FUNCTION raise_watch_version();

-- A name that is suppressed and turns out to be an erased person's stays as its keyed hash: it may be another one's by now.
ALTER TABLE suppressions ADD COLUMN username_hash bytea CHECK (octet_length(username_hash) = 32),
    DROP CONSTRAINT suppressions_check,
    ADD CONSTRAINT suppressions_check CHECK (num_nonnulls(user_id, username, phone_hash, username_hash) = 1);
CREATE UNIQUE INDEX suppressions_username_hash ON suppressions (username_hash) WHERE username_hash IS NOT NULL;

-- The one question, with the marks of the names.
CREATE FUNCTION is_suppressed(person bigint, names text[], phone bytea, name_marks bytea[]) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT is_suppressed(person, names, phone) OR EXISTS (SELECT FROM suppressions WHERE username_hash = ANY (name_marks))
$$;

-- As before, and only what is theirs by their id goes: a name that they once had may be somebody else's.
CREATE OR REPLACE FUNCTION begin_erasure(new_id uuid, who bigint, person_mark bytea, actor text) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    known varchar[] := names_of_person(who);
    begun uuid;
BEGIN
    INSERT INTO erased_people (user_hash) VALUES (person_mark) ON CONFLICT DO NOTHING;
    SELECT id INTO begun FROM erasures WHERE mark = person_mark AND state = 'working';
    IF FOUND THEN
        RETURN begun;
    END IF;
    INSERT INTO erasures (id, mark, person, names, tables, changed, requested_by)
    SELECT new_id, person_mark, who, known, array_agg(l.leaf ORDER BY l.is_part, l.leaf), '{}', actor
    FROM (SELECT c.relname AS leaf, c.relispartition AS is_part
        FROM (SELECT DISTINCT tab FROM columns_about_people()) t, pg_partition_tree(t.tab::regclass) p, pg_class c
        WHERE p.isleaf AND c.oid = p.relid
        UNION SELECT t.tab, false FROM (SELECT DISTINCT tab FROM columns_about_people()) t, pg_class c
        WHERE c.oid = t.tab::regclass AND c.relkind = 'r') l;
    RETURN new_id;
END $$;

-- By whom names were resolved to: asked for while a person's erasure begins.
CREATE INDEX campaign_people_resolved ON campaign_people (resolved_id) WHERE resolved_id IS NOT NULL;

-- The release before asks for suppressed names without their marks, as it did.
INSERT INTO schema_compatibility (migration, oldest_release) VALUES (20261126000070, 20261120000015);
