-- Version 1, second part: `taskloom.submit`, which accepts a job inside the transaction of whoever
-- calls it. docs/transactional-enqueue.md is its manual.
--
-- It only adds rows, so it waits for nobody but for whom it must: another open transaction that
-- has the same unique text, or that is the first with the same queue and task or the same policy.
-- It writes neither to `counts`, which others write to, nor to `events`, whose readers stop at the
-- oldest open transaction. A node does that when it takes the arrival in (arrivals.rs).

-- Ends the call with a refusal: the code, which docs/errors explains, is its DETAIL.
CREATE FUNCTION refuse(code text, message text, cure text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', message USING HINT = cure, DETAIL = code, ERRCODE = CASE code
        WHEN 'store.empty' THEN 'TL002'
        WHEN 'store.too_large' THEN 'TL003'
        WHEN 'store.unknown_dependency' THEN 'TL004'
        WHEN 'store.policy' THEN 'TL005'
        ELSE 'TL001' END;
END $$;

-- The public id of a job, as model::JobId composes it.
CREATE FUNCTION job_id(created bigint, salt bigint, job bigint) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex(greatest(created, 0) & 281474976710655), 12, '0')
        || '7' || lpad(to_hex(salt >> 20), 3, '0')
        || '8' || lpad(to_hex(salt & 1048575), 5, '0') || lpad(to_hex(job), 10, '0'))::uuid
$$;

-- Whole milliseconds since 1970.
CREATE FUNCTION millis(moment timestamptz) RETURNS bigint
LANGUAGE sql STABLE AS $$ SELECT floor(extract(epoch FROM moment) * 1000)::bigint $$;

CREATE FUNCTION check_name(what text, name text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF name = '' THEN
        PERFORM refuse('store.empty', what || ' is empty',
            'give it at least one character, or leave it out');
    ELSIF 255 < octet_length(name) THEN
        PERFORM refuse('store.too_large',
            format('%s is %s bytes, over the limit of 255', what, octet_length(name)),
            'pass a reference to the data instead');
    END IF;
END $$;

CREATE FUNCTION check_options(options jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    known CONSTANT text[] := ARRAY['queue', 'priority', 'key', 'unique', 'delay_ms', 'run_at',
        'deadline', 'timeout_ms', 'max_attempts', 'delay_first_ms', 'factor', 'delay_max_ms',
        'jitter', 'on_dependency_failure', 'after', 'notify'];
    strange text;
BEGIN
    IF jsonb_typeof(options) <> 'object' THEN
        PERFORM refuse('submit.invocation', 'the options are no JSON object',
            'for example {"queue": "mail", "delay_ms": 60000}');
    END IF;
    SELECT name INTO strange FROM jsonb_object_keys(options) AS name
        WHERE name <> ALL (known) LIMIT 1;
    IF FOUND THEN
        PERFORM refuse('submit.invocation', format('there is no option `%s`', strange),
            'the options are ' || array_to_string(known, ', '));
    END IF;
END $$;

-- A text among the options; with `words`, one of these.
CREATE FUNCTION option_text(options jsonb, name text, words text[] DEFAULT NULL) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    given jsonb := options -> name;
BEGIN
    IF coalesce(jsonb_typeof(given), 'null') = 'null' THEN
        RETURN NULL;
    ELSIF jsonb_typeof(given) <> 'string' OR (given #>> '{}') <> ALL (words) THEN
        PERFORM refuse('submit.invocation', format('the option `%s` can''t be %s', name, given),
            coalesce('it is one of ' || array_to_string(words, ', '), 'it is a text'));
    END IF;
    RETURN given #>> '{}';
END $$;

-- A whole number among the options, from `lowest` to `highest`.
CREATE FUNCTION option_number(
    options jsonb, name text, lowest bigint DEFAULT 0, highest bigint DEFAULT 9223372036854775807
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    given jsonb := options -> name;
    number numeric;
BEGIN
    IF coalesce(jsonb_typeof(given), 'null') = 'null' THEN
        RETURN NULL;
    ELSIF jsonb_typeof(given) = 'number' THEN
        number := given::numeric;
    END IF;
    IF number IS NULL OR number <> trunc(number) OR number < lowest OR highest < number THEN
        PERFORM refuse('submit.invocation', format('the option `%s` can''t be %s', name, given),
            format('it is a whole number from %s to %s', lowest, highest));
    END IF;
    RETURN number::bigint;
END $$;

-- A moment among the options: milliseconds since 1970, or what a timestamptz is written as.
CREATE FUNCTION option_moment(options jsonb, name text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    given jsonb := options -> name;
    moment timestamptz;
BEGIN
    IF jsonb_typeof(given) IS DISTINCT FROM 'string' THEN
        RETURN option_number(options, name);
    END IF;
    BEGIN
        moment := (given #>> '{}')::timestamptz;
    EXCEPTION WHEN data_exception THEN
        moment := 'infinity';
    END;
    IF NOT isfinite(moment) OR millis(moment) < 0 THEN
        PERFORM refuse('submit.invocation', format('the option `%s` can''t be %s', name, given),
            'it is milliseconds since 1970, or a text such as "2030-01-01T12:00:00Z"');
    END IF;
    RETURN millis(moment);
END $$;

-- The keys of the jobs that must end first. Those that have succeeded already are left out.
CREATE FUNCTION option_after(options jsonb, salt bigint) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    given jsonb := options -> 'after';
    wanted uuid[];
    missing uuid;
BEGIN
    IF coalesce(jsonb_typeof(given), 'null') = 'null' THEN
        RETURN NULL;
    ELSIF jsonb_typeof(given) = 'string' THEN
        given := jsonb_build_array(given);
    ELSIF jsonb_typeof(given) = 'array' AND 10000 < jsonb_array_length(given) THEN
        PERFORM refuse('store.too_large', format('the list of dependencies is %s long, over the '
            'limit of 10000', jsonb_array_length(given)), 'let a job in between wait for some');
    END IF;
    BEGIN
        wanted := ARRAY(SELECT id::uuid FROM jsonb_array_elements_text(given) AS id);
    EXCEPTION WHEN data_exception THEN
        PERFORM refuse('submit.invocation', format('the option `after` can''t be %s', given),
            'it is the id of a job, or an array of ids');
    END;
    SELECT id INTO missing FROM unnest(wanted) AS id WHERE id IS NULL OR NOT EXISTS (
        SELECT FROM jobs WHERE job = ('x' || right(id::text, 10))::bit(40)::bigint
        AND job_id(created, salt, job) = id) LIMIT 1;
    IF FOUND THEN
        PERFORM refuse('store.unknown_dependency', format('no job %s to depend on', missing),
            'it was never accepted here, or is pruned; this transaction may not see it');
    END IF;
    RETURN (SELECT array_agg(DISTINCT key ORDER BY key)
        FROM (SELECT ('x' || right(id::text, 10))::bit(40)::bigint FROM unnest(wanted) AS id)
        AS it (key) WHERE NOT EXISTS (SELECT FROM ended WHERE job = key AND state = 5));
END $$;

-- The lane of a queue and a task. A new one is made under the lock under which nodes make theirs;
-- the lock is held until the end of the transaction.
CREATE FUNCTION lane_of(in_queue text, of_task text) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    lane integer;
BEGIN
    SELECT id INTO lane FROM lanes WHERE queue = in_queue AND task = of_task;
    IF lane IS NULL THEN
        LOCK TABLE lanes IN SHARE ROW EXCLUSIVE MODE;
        -- Where the snapshot is older than the lock, what it hides is a conflict, and an error
        -- 40001.
        INSERT INTO lanes (id, queue, task)
            SELECT coalesce(max(id), 0) + 1, in_queue, of_task FROM lanes
            HAVING NOT coalesce(bool_or(queue = in_queue AND task = of_task), false)
            ON CONFLICT DO NOTHING;
        SELECT id INTO lane FROM lanes WHERE queue = in_queue AND task = of_task;
    END IF;
    RETURN lane;
END $$;

-- The policy that the options ask for: the words are those that serde writes, so the row is shared.
CREATE FUNCTION policy_of(options jsonb) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    n_attempts bigint := coalesce(option_number(options, 'max_attempts', 0, 4294967295), 5);
    factor numeric := 2;
    words text;
    policy integer;
BEGIN
    IF n_attempts = 0 THEN
        PERFORM refuse('store.policy', 'the retry policy is out of bounds: max_attempts is 0',
            'a job needs at least 1');
    END IF;
    IF coalesce(jsonb_typeof(options -> 'factor'), 'null') <> 'null' THEN
        factor := CASE jsonb_typeof(options -> 'factor') WHEN 'number'
            THEN (options -> 'factor')::numeric ELSE 0 END;
        IF factor < 1 OR 1e308 < factor THEN
            PERFORM refuse('store.policy', 'the retry policy is out of bounds: factor is '
                || (options ->> 'factor'), 'factor must be a number of at least 1');
        ELSIF 17 < length(factor::text) THEN
            factor := factor::float8::numeric;
        END IF;
    END IF;
    words := trim_scale(factor)::text;
    words := format('{"retry":{"max_attempts":%s,"backoff":{"delay_first":%s,"factor":%s,'
        '"delay_max":%s,"jitter":"%s"}},"timeout_ms":%s,"on_dependency_failure":"%s"}',
        n_attempts,
        coalesce(option_number(options, 'delay_first_ms'), 1000),
        CASE WHEN words LIKE '%.%' THEN words ELSE words || '.0' END,
        coalesce(option_number(options, 'delay_max_ms'), 300000),
        coalesce(option_text(options, 'jitter', ARRAY['full', 'none']), 'full'),
        coalesce(option_number(options, 'timeout_ms', 1)::text, 'null'),
        coalesce(option_text(options, 'on_dependency_failure', ARRAY['cancel', 'run']), 'cancel'));
    SELECT id INTO policy FROM policies WHERE body = words;
    IF policy IS NULL THEN
        INSERT INTO policies (body) VALUES (words) ON CONFLICT DO NOTHING;
        SELECT id INTO policy FROM policies WHERE body = words;
    END IF;
    RETURN policy;
END $$;

CREATE FUNCTION submit(
    task text, args jsonb DEFAULT '{}', options jsonb DEFAULT '{}',
    OUT id uuid, OUT duplicate boolean
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = taskloom, pg_temp AS $$
#variable_conflict use_column
DECLARE
    now bigint := millis(clock_timestamp());
    salt bigint := (SELECT value FROM meta WHERE name = 'salt');
    given_args text := coalesce(args, '{}')::text;
    given jsonb := coalesce(options, '{}');
    queue text;
    unique_text text;
    deadline bigint;
    run_at bigint;
    lane_id integer;
    policy_id integer;
    after_jobs bigint[];
    new_job bigint;
    new_rank smallint;
    more jsonb;
BEGIN
    PERFORM check_options(given);
    queue := coalesce(option_text(given, 'queue'), 'default');
    unique_text := option_text(given, 'unique');
    PERFORM check_name('the task''s name', coalesce(submit.task, ''));
    PERFORM check_name('the queue''s name', queue);
    PERFORM check_name('the key', option_text(given, 'key'));
    PERFORM check_name('the unique text', unique_text);
    IF 1048576 < octet_length(given_args) THEN
        PERFORM refuse('store.too_large', format('the arguments are %s bytes, over the limit of '
            '1048576', octet_length(given_args)), 'pass a reference to the data instead');
    END IF;
    deadline := option_moment(given, 'deadline');
    run_at := option_moment(given, 'run_at');
    IF option_number(given, 'delay_ms') IS NOT NULL THEN
        IF run_at IS NOT NULL THEN
            PERFORM refuse('submit.invocation', 'both `delay_ms` and `run_at` are given',
                'leave one of them out');
        END IF;
        run_at := least(now::numeric + option_number(given, 'delay_ms'), 9223372036854775807);
    END IF;
    new_rank := 9 - coalesce(option_number(given, 'priority', 0, 9), 0);
    after_jobs := option_after(given, salt);
    new_job := nextval('job_key');
    duplicate := false;
    IF unique_text IS NOT NULL THEN
        id := take_unique(unique_text, new_job, salt);
        IF id IS NOT NULL THEN
            duplicate := true;
            RETURN;
        END IF;
    END IF;
    lane_id := lane_of(queue, submit.task);
    policy_id := policy_of(given);
    more := jsonb_strip_nulls(jsonb_build_object('run_at', run_at, 'deadline', deadline,
        'key', given ->> 'key', 'unique', unique_text));
    INSERT INTO jobs (job, created, lane, policy, rank, args, extra)
        VALUES (new_job, now, lane_id, policy_id, new_rank, given_args,
        CASE WHEN more <> '{}' THEN more::text END);
    INSERT INTO hot (job, fence, lane, attempts, crashes, snoozes, rank, state, flags)
        VALUES (new_job, 0, lane_id, 0, 0, 0, new_rank, 0, -32768
        + (unique_text IS NOT NULL)::int + 2 * (deadline IS NOT NULL)::int);
    INSERT INTO arrivals (job, lane, after) VALUES (new_job, lane_id, after_jobs);
    IF deadline IS NOT NULL THEN
        INSERT INTO deadlines (at, job) VALUES (deadline, new_job);
    END IF;
    id := job_id(now, salt, new_job);
    IF (given -> 'notify') = 'true' THEN
        -- The word for "a job waits for a time" (listen.rs).
        PERFORM pg_notify('taskloom', '2');
    ELSIF coalesce(jsonb_typeof(given -> 'notify'), 'null') NOT IN ('boolean', 'null') THEN
        PERFORM refuse('submit.invocation', format('the option `notify` can''t be %s',
            given -> 'notify'), 'it is true or false');
    END IF;
END $$;

-- Takes a unique text for a job, or returns the id of the job that has it. Waits for an open
-- transaction that has taken it.
CREATE FUNCTION take_unique(wanted text, new_job bigint, salt bigint) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    holder uuid;
BEGIN
    -- Between the two statements the text may be freed.
    FOR i IN 1..5 LOOP
        INSERT INTO uniques (text, job) VALUES (wanted, new_job) ON CONFLICT DO NOTHING;
        IF FOUND THEN
            RETURN NULL;
        END IF;
        SELECT job_id(created, salt, job) INTO holder
            FROM uniques JOIN jobs USING (job) WHERE text = wanted;
        IF FOUND THEN
            RETURN holder;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'the unique text comes and goes too fast' USING ERRCODE = '40001',
        DETAIL = 'store.contended', HINT = 'do the transaction again';
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA taskloom FROM PUBLIC;
COMMENT ON FUNCTION submit IS 'Accepts a job when the transaction commits. Options: queue, priority,
 key, unique, delay_ms or run_at, deadline, timeout_ms, max_attempts, delay_first_ms, factor,
 delay_max_ms, jitter, on_dependency_failure, after, notify.';
