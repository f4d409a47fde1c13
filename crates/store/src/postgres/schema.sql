-- Version 1, in the schema `taskloom`. Integer keys inside; the public id of a job carries its key
-- (see model::JobId). Times are milliseconds since 1970.
CREATE TABLE meta (name text PRIMARY KEY, value bigint NOT NULL);

-- A lane is a queue and a task. A node claims only tasks it has, so ready jobs are kept by lane.
-- Ids are given under a lock on the table, so they become visible in their order.
CREATE TABLE lanes (
    id integer PRIMARY KEY,
    queue text NOT NULL,
    task text NOT NULL,
    UNIQUE (queue, task)
);

-- What many jobs agreed on in the same words: retries, timeout, dependency policy.
CREATE TABLE policies (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    body text NOT NULL UNIQUE
);

-- As far as an id can carry a key.
CREATE SEQUENCE job_key MAXVALUE 1099511627775;

-- The history, `jobs`, `ended`, `attempts` and `logs`, lies in parts by the key of the job. Keys come
-- from one sequence, so a part is a stretch of time; the four tables of one that is old are dropped
-- whole. The end of this file has what makes and drops parts, and they are described in `parts`.

-- What was submitted. Append only.
CREATE TABLE jobs (
    job bigint PRIMARY KEY,
    created bigint NOT NULL,
    lane integer NOT NULL,
    policy integer NOT NULL,
    rank smallint NOT NULL,
    args text NOT NULL,
    extra text
) PARTITION BY RANGE (job);

-- Every unfinished job: where it stands, and its life. The row goes when the job ends.
-- `flags`: 1 it has a unique text, 2 a deadline, 4 others wait for it, 8 somebody wants it to end;
-- below zero: it is among the `arrivals`. Without any of these its success touches no other row.
CREATE TABLE hot (
    job bigint NOT NULL,
    fence bigint NOT NULL,
    at bigint,
    node bigint,
    started bigint,
    lane integer NOT NULL,
    attempts integer NOT NULL,
    crashes integer NOT NULL,
    snoozes integer NOT NULL,
    n_unfinished integer,
    rank smallint NOT NULL,
    state smallint NOT NULL,
    flags smallint NOT NULL,
    progress text,
    CONSTRAINT hot_pkey PRIMARY KEY (job) WITH (fillfactor = 90)
) WITH (
    fillfactor = 85,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.2,
    autovacuum_vacuum_cost_delay = 0
);
-- Not on the job itself: a range of that the planner would look for in `hot_pkey` at times. For the
-- same reason `hot_cancel` is not on the node itself: there is `hot_leases`.
CREATE INDEX hot_ready ON hot (lane, rank, (job + 0)) WHERE state = 2;
CREATE INDEX hot_waiting ON hot (at, job) WHERE at IS NOT NULL;
-- On the node and not on the state: with `WHERE state = 3` the planner lets the finishing
-- statement walk every lease.
CREATE INDEX hot_leases ON hot (node) WHERE node IS NOT NULL;
CREATE INDEX hot_cancel ON hot ((node + 0)) WHERE flags >= 8;

-- Jobs that came by `submit` (submit.sql) in a transaction of somebody else, and that no node has
-- taken in yet: they are in no number of `counts` and in no event, and their rows in `hot` say state
-- 0 without a time. A row goes when its job is first loaded for a move.
CREATE TABLE arrivals (
    job bigint PRIMARY KEY,
    lane integer NOT NULL,
    -- The jobs that must end first.
    after bigint[]
) WITH (
    autovacuum_vacuum_scale_factor = 0.0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- How a job ended. Its last attempt is in this row; the ones before are in `attempts`.
CREATE TABLE ended (
    job bigint PRIMARY KEY,
    at bigint NOT NULL,
    fence bigint NOT NULL,
    node bigint,
    started bigint,
    attempts integer NOT NULL,
    crashes integer NOT NULL,
    snoozes integer NOT NULL,
    state smallint NOT NULL,
    outcome smallint,
    result text,
    error text
) PARTITION BY RANGE (job);
CREATE INDEX ended_badly ON ended (state, job) WHERE state <> 5;
-- Rows come in the order of time, so a few bytes for many pages find the old ones.
CREATE INDEX ended_at ON ended USING brin (at);

CREATE TABLE attempts (
    job bigint NOT NULL,
    fence bigint NOT NULL,
    attempt integer NOT NULL,
    node bigint NOT NULL,
    started bigint NOT NULL,
    ended bigint NOT NULL,
    outcome smallint NOT NULL,
    error text,
    PRIMARY KEY (job, fence)
) PARTITION BY RANGE (job);

CREATE SEQUENCE log_line;
CREATE TABLE logs (
    job bigint NOT NULL,
    n bigint NOT NULL DEFAULT nextval('log_line'),
    fence bigint NOT NULL,
    at bigint NOT NULL,
    level text NOT NULL,
    text text NOT NULL,
    PRIMARY KEY (job, n)
) PARTITION BY RANGE (job);

CREATE TABLE dependencies (on_job bigint, job bigint, PRIMARY KEY (on_job, job));

CREATE TABLE uniques (text text PRIMARY KEY, job bigint NOT NULL)
    WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE deadlines (at bigint, job bigint, PRIMARY KEY (at, job))
    WITH (autovacuum_vacuum_scale_factor = 0.05);

-- One row a commit: the events of that commit, packed. `first`, the offset of the first one, is
-- the transaction's id times 2^20.
CREATE TABLE events (
    first bigint PRIMARY KEY,
    at bigint NOT NULL,
    n integer NOT NULL,
    body bytea NOT NULL
) WITH (autovacuum_vacuum_insert_scale_factor = 0.5);
CREATE INDEX events_at ON events USING brin (at);

-- Kept by the difference each commit makes. Each connection that writes has rows of its own, so
-- that none waits for another, and begins new ones before the old ones have too many dead versions:
-- the lower 15 bits of `writer` are the connection's number. A number is the sum over the writers and
-- the parts. `part` is the key of the job / 2^24, wherever its rows lie now: the numbers of a dropped
-- part go with it. What survived is counted by the writer 0.
CREATE TABLE counts (
    lane integer,
    part integer,
    state smallint,
    writer integer,
    n bigint NOT NULL,
    PRIMARY KEY (lane, part, state, writer)
) WITH (
    fillfactor = 25,
    autovacuum_vacuum_scale_factor = 0.0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

CREATE TABLE nodes (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    pid bigint NOT NULL,
    started bigint NOT NULL,
    heartbeat bigint NOT NULL,
    -- Whether it holds a liveness lock. Through a pooler nobody can: then only time decides.
    has_lock boolean NOT NULL,
    -- The names of the tasks it can run: a JSON array.
    tasks text NOT NULL
) WITH (fillfactor = 25, autovacuum_vacuum_threshold = 100);

-- The parts of the history: tables with this name behind an underscore have the rows of the jobs
-- from `begins` up to, and without, `ends`. Before 0 there are none.
CREATE TABLE parts (
    name text PRIMARY KEY,
    begins bigint NOT NULL,
    ends bigint NOT NULL
);

-- The tables of the history, in the order in which everybody locks them.
CREATE FUNCTION history() RETURNS text[] LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
    AS $$ SELECT ARRAY['jobs', 'ended', 'attempts', 'logs'] $$;

-- Whoever owns the schema lends its rights to these functions, so that a role that only uses it can
-- call them. Making and attaching tables stops nobody who reads or writes.
CREATE FUNCTION add_part(name text, begins bigint, ends bigint) RETURNS void LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = taskloom, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    base text;
    low text := CASE WHEN begins < 0 THEN 'MINVALUE' ELSE begins::text END;
BEGIN
    FOREACH base IN ARRAY history() LOOP
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS) '
            'WITH (autovacuum_vacuum_insert_scale_factor = 0.5)', base || '_' || name, base);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
            base, base || '_' || name, low, ends);
    END LOOP;
    INSERT INTO parts VALUES (add_part.name, add_part.begins, add_part.ends);
END $$;

-- Makes the part that the sequence of keys stands in, and the next one. Returns how many were
-- missing.
CREATE FUNCTION make_parts() RETURNS integer LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = taskloom, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    width bigint := 1 << 24;
    standing bigint := (SELECT last_value FROM job_key) >> 24;
    part bigint;
    n integer := 0;
BEGIN
    -- Two that make the same part: the second finds it. No other lock of ours has this number.
    PERFORM pg_advisory_xact_lock(x'546B6C3400000000'::bigint);
    FOR part IN SELECT generate_series(standing, least(standing + 1, 65535)) LOOP
        IF NOT EXISTS (SELECT FROM parts p WHERE p.begins <= part * width AND part * width < p.ends)
        THEN
            PERFORM add_part('p' || part, part * width, (part + 1) * width);
            n := n + 1;
        END IF;
    END LOOP;
    RETURN n;
END $$;

-- Ended jobs of a part that are old enough to be forgotten, at most `n_max`.
CREATE FUNCTION old_jobs(part text, succeeded_before bigint, failed_before bigint, n_max bigint)
    RETURNS SETOF bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = taskloom, pg_temp
    SET enable_bitmapscan = on SET enable_indexscan = off AS $$
BEGIN
    IF EXISTS (SELECT FROM parts WHERE name = part) THEN
        RETURN QUERY EXECUTE format('SELECT job FROM %I WHERE at < greatest($1, $2) '
            'AND at < CASE WHEN state %% 10 = 6 THEN $2 ELSE $1 END LIMIT $3', 'ended_' || part)
            USING succeeded_before, failed_before, n_max;
    END IF;
END $$;

-- The jobs of a part that outlive it: unfinished ones, and ended ones that are too young. NULL when
-- there are more than `n_max` of them, or of their attempts and lines of log more than ten times
-- as many.
CREATE FUNCTION survivors(part text, succeeded_before bigint, failed_before bigint, n_max integer)
    RETURNS bigint[] LANGUAGE plpgsql SECURITY DEFINER SET search_path = taskloom, pg_temp
    SET enable_bitmapscan = on AS $$
DECLARE
    found parts;
    kept bigint[];
    n bigint;
BEGIN
    SELECT * INTO STRICT found FROM parts WHERE name = part;
    PERFORM brin_summarize_new_values(i.indexrelid)
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
        WHERE i.indrelid = ('ended_' || part)::regclass AND a.amname = 'brin';
    EXECUTE format('SELECT array_agg(job) FROM (SELECT job FROM hot WHERE $1 <= job AND job < $2 '
        'UNION ALL SELECT job FROM %1$I WHERE $3 <= at AND state %% 10 <> 6 '
        'UNION ALL SELECT job FROM %1$I WHERE $4 <= at AND state <> 5 AND state %% 10 = 6 '
        'LIMIT $5) AS k', 'ended_' || part)
        INTO kept USING found.begins, found.ends, succeeded_before, failed_before, n_max + 1;
    kept := coalesce(kept, '{}');
    EXECUTE format('SELECT count(*) FROM (SELECT FROM unnest($1) AS k(job) JOIN %I USING (job) '
        'UNION ALL SELECT FROM unnest($1) AS k(job) JOIN %I USING (job) LIMIT $2) AS beside',
        'attempts_' || part, 'logs_' || part) INTO n USING kept, 10 * n_max + 1;
    RETURN CASE WHEN cardinality(kept) <= n_max AND n <= 10 * n_max THEN kept END;
END $$;

-- A part is dropped in three steps. First each table of its heir, the part before it, promises to
-- hold no key from `ends` on; then that is proven, while all goes on; so that the last step can give
-- the heir a new end without a look at its rows.
CREATE FUNCTION promise_end(base text, heir text, ends bigint) RETURNS void LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = taskloom, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    heirs regclass := (base || '_' || heir)::regclass;
    promised text;
    is_promised boolean := false;
BEGIN
    FOR promised IN SELECT conname FROM pg_constraint WHERE conrelid = heirs AND contype = 'c' LOOP
        IF promised = 'below_' || ends THEN
            is_promised := true;
        ELSE
            -- Of a drop that was not finished.
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', heirs, promised);
        END IF;
    END LOOP;
    IF NOT is_promised THEN
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I CHECK (job < %s) NOT VALID',
            heirs, 'below_' || ends, ends);
    END IF;
END $$;

CREATE FUNCTION prove_end(base text, heir text, ends bigint) RETURNS void LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = taskloom, pg_temp SET lock_timeout = '5s' AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s VALIDATE CONSTRAINT %I',
        (base || '_' || heir)::regclass, 'below_' || ends);
END $$;

-- The last step: moves the survivors to the heir, which takes the place of both, and drops the rest.
-- Returns how many jobs are forgotten; NULL when the part is gone already or too many survive.
CREATE FUNCTION drop_part(gone text, heir text, succeeded_before bigint, failed_before bigint,
    n_max integer) RETURNS bigint LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = taskloom, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    old parts;
    new parts;
    holders text[];
    kept bigint[];
    base text;
    low text;
BEGIN
    SELECT * INTO old FROM parts WHERE name = gone;
    SELECT * INTO new FROM parts WHERE name = heir AND ends <= old.begins;
    -- Known before anybody must wait.
    IF new.name IS NULL OR survivors(gone, succeeded_before, failed_before, n_max) IS NULL THEN
        RETURN NULL;
    END IF;
    -- Traffic would wait in vain behind whoever keeps its lock for longer than the wait for it lasts.
    holders := ARRAY(SELECT virtualtransaction FROM pg_locks WHERE relation = 'jobs'::regclass);
    PERFORM pg_sleep(1);
    IF EXISTS (SELECT FROM pg_locks WHERE relation = 'jobs'::regclass
        AND virtualtransaction = ANY (holders)) THEN
        RAISE lock_not_available USING MESSAGE = 'a transaction reads the history for long';
    END IF;
    -- A vacuum under way gives way to this, and traffic does not notice.
    PERFORM set_config('lock_timeout', '3s', true);
    FOREACH base IN ARRAY history() LOOP
        EXECUTE format('LOCK TABLE %I, %I IN SHARE UPDATE EXCLUSIVE MODE',
            base || '_' || gone, base || '_' || heir);
    END LOOP;
    PERFORM set_config('lock_timeout', '1s', true);
    -- From here on traffic waits. Each transaction of ours begins with a lock on `jobs`, so none is
    -- in the middle, and what is counted agrees with the rows.
    FOREACH base IN ARRAY history() LOOP
        EXECUTE format('LOCK TABLE ONLY %I IN ACCESS EXCLUSIVE MODE', base);
    END LOOP;
    kept := survivors(gone, succeeded_before, failed_before, n_max);
    IF kept IS NULL THEN
        RETURN NULL;
    END IF;
    low := CASE WHEN new.begins < 0 THEN 'MINVALUE' ELSE new.begins::text END;
    FOREACH base IN ARRAY history() LOOP
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', base, base || '_' || gone);
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', base, base || '_' || heir);
        EXECUTE format('INSERT INTO %I SELECT o.* FROM unnest($1) AS k(job) JOIN %I AS o USING (job)',
            base || '_' || heir, base || '_' || gone) USING kept;
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
            base, base || '_' || heir, low, old.ends);
        EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I',
            base || '_' || heir, 'below_' || old.ends);
        EXECUTE format('DROP TABLE %I', base || '_' || gone);
    END LOOP;
    DELETE FROM parts WHERE name = gone;
    UPDATE parts SET ends = old.ends WHERE name = heir;
    DELETE FROM dependencies
        WHERE old.begins <= on_job AND on_job < old.ends AND on_job <> ALL (kept);
    RETURN count_anew(new.begins >> 24, old.begins >> 24, old.ends >> 24, kept);
END $$;

-- The counts after a drop: of the parts from `gone` up to `ends` only the survivors are left, and
-- those from `heir` up to `gone` are summed up. Returns how many ended jobs are counted no more.
CREATE FUNCTION count_anew(heir bigint, gone bigint, ends bigint, kept bigint[]) RETURNS bigint
    LANGUAGE plpgsql SET search_path = taskloom, pg_temp AS $$
DECLARE
    before bigint;
    after bigint;
BEGIN
    SELECT coalesce(sum(n), 0) INTO before FROM counts
        WHERE gone <= part AND part < ends AND state IN (5, 6, 7);
    DELETE FROM counts WHERE gone <= part AND part < ends;
    INSERT INTO counts (lane, part, state, writer, n)
        SELECT j.lane, j.job >> 24, coalesce(h.state, e.state % 10), 0, count(*)
        FROM unnest(kept) AS k(job) JOIN jobs j USING (job)
        LEFT JOIN hot h USING (job) LEFT JOIN ended e USING (job)
        -- Arrivals are counted when a node takes them in.
        WHERE coalesce(h.flags, 0) >= 0 GROUP BY 1, 2, 3;
    SELECT coalesce(sum(n), 0) INTO after FROM counts
        WHERE gone <= part AND part < ends AND state IN (5, 6, 7);
    INSERT INTO counts (lane, part, state, writer, n)
        SELECT lane, part, state, -1, sum(n) FROM counts
        WHERE heir <= part AND part < gone GROUP BY lane, part, state HAVING sum(n) <> 0;
    DELETE FROM counts WHERE heir <= part AND part < gone AND writer <> -1;
    UPDATE counts SET writer = 0 WHERE writer = -1;
    RETURN before - after;
END $$;

-- What outlives the parts that are dropped first lies here.
SELECT add_part('elder', -1, 0);
SELECT make_parts();

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA taskloom FROM PUBLIC;
