-- The roles of the programs may do to table partitions what the protocol does, and nothing else (decision 12): the owner
-- says how wide partitions are and how long they are kept, and only keys whose windows are over can be let go. And expiry
-- waits for no lock for long, because whatever comes after it waits behind it.
--
-- In every function the path has no schema that anybody else may ever have written to: what is not qualified is Postgres' own.

-- Changed by `milepost-admin migrate`. Its rows are the locks under which partitions come and go: nobody but the owner can
-- take them, unlike an advisory lock.
CREATE TABLE partition_settings (
    parent text PRIMARY KEY CHECK (parent IN ('idempotency_keys', 'locations')),
    -- The width of the partitions to come.
    width  interval NOT NULL CHECK (width BETWEEN '1 second' AND '365 days'),
    -- How long after its end a partition is needed.
    kept   interval NOT NULL CHECK (kept BETWEEN '1 second' AND '365000 days')
);
INSERT INTO partition_settings VALUES ('locations', '1 day', '365000 days');
-- The TTL of the consumers that run, so that they go on: the newest partition was made by it.
INSERT INTO partition_settings
SELECT 'idempotency_keys', ttl, ttl
FROM (SELECT coalesce((SELECT extract(epoch FROM keep_until - upper_bound) * interval '1 second' FROM table_partitions
                       WHERE parent = 'idempotency_keys' AND NOT detached ORDER BY lower_bound DESC LIMIT 1),
                      '24 hours') AS ttl);
GRANT SELECT ON partition_settings TO milepost_consumer;

-- A journal that is made anew uses the offsets of the one before again: a dead letter is the same one only if its time is as well.
ALTER TABLE dead_letters DROP CONSTRAINT dead_letters_pkey, ADD PRIMARY KEY (topic, partition, "offset", journal_time);

-- How often a partition could not be detached because somebody held the table, and when to try again.
ALTER TABLE table_partitions
    ADD COLUMN attempts integer NOT NULL DEFAULT 0,
    ADD COLUMN retry_at timestamptz NOT NULL DEFAULT '-infinity';

-- Makes sure a partition of `of_parent` covers `moment`, and that it is kept for as long as the owner has set, which must
-- be `needed` at least. Returns the bounds. If all is well already, it takes no lock and writes nothing.
--
-- Attaching takes SHARE UPDATE EXCLUSIVE on the parent, so readers and writers go on; CREATE TABLE .. PARTITION OF would lock
-- them out. A changed width is clipped to what already exists.
CREATE FUNCTION ensure_partition(of_parent text, moment timestamptz, needed interval)
RETURNS TABLE (lower_end timestamptz, upper_end timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    setting public.partition_settings;
    low     timestamptz;
    high    timestamptz;
    part    text;
BEGIN
    SELECT * INTO setting FROM public.partition_settings s WHERE s.parent = of_parent;
    IF NOT FOUND THEN
        RAISE 'no table of this name has partitions' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF (needed BETWEEN interval '0' AND setting.kept) IS NOT TRUE THEN
        RAISE 'partitions of % are kept for %, not for %', of_parent, setting.kept, needed
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Run milepost-admin migrate with the new IDEMPOTENCY_TTL.';
    END IF;
    -- Every time that the consumer takes for one of the journal: an upload that a broker with a wrong clock has stamped is stored.
    IF (moment BETWEEN timestamptz '1970-01-01 00:00:00+00' AND timestamptz '9000-01-01 00:00:00+00') IS NOT TRUE THEN
        RAISE 'no record of the journal is of this time' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT p.lower_bound, p.upper_bound INTO low, high FROM public.table_partitions p
    WHERE p.parent = of_parent AND p.lower_bound <= moment AND moment < p.upper_bound AND NOT p.detached
      AND p.keep_until >= p.upper_bound + setting.kept;
    IF FOUND THEN
        RETURN QUERY SELECT low, high;
        RETURN;
    END IF;

    SELECT * INTO setting FROM public.partition_settings s WHERE s.parent = of_parent FOR UPDATE;
    UPDATE public.table_partitions p SET keep_until = greatest(p.keep_until, p.upper_bound + setting.kept)
    WHERE p.parent = of_parent AND p.lower_bound <= moment AND moment < p.upper_bound AND NOT p.detached
    RETURNING p.lower_bound, p.upper_bound INTO low, high;
    IF NOT FOUND THEN
        low := date_bin(setting.width, moment, timestamptz '2000-01-01 00:00:00+00');
        high := low + setting.width;
        SELECT greatest(low, max(p.upper_bound)) INTO low FROM public.table_partitions p
        WHERE p.parent = of_parent AND NOT p.detached AND p.upper_bound <= moment;
        SELECT least(high, min(p.lower_bound)) INTO high FROM public.table_partitions p
        WHERE p.parent = of_parent AND NOT p.detached AND p.lower_bound > moment;
        part := of_parent || '_' || to_char(low AT TIME ZONE 'UTC', 'YYYYMMDD"t"HH24MISSMS');
        -- A detached namesake waits for its drop.
        IF EXISTS (SELECT FROM public.table_partitions p WHERE p.name = part) THEN
            part := part || '_' || substr(md5(random()::text), 1, 6);
        END IF;
        EXECUTE format('CREATE TABLE public.%I (LIKE public.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)',
                       part, of_parent);
        EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                       of_parent, part, low, high);
        INSERT INTO public.table_partitions (name, parent, lower_bound, upper_bound, keep_until)
        VALUES (part, of_parent, low, high, high + setting.kept);
    END IF;
    RETURN QUERY SELECT low, high;
END $$;

-- Lets a partition of keys go: from here on its rows are forgotten. Their windows have to be over by the server's clock, and
-- by the progress of every partition of the journal but those that the consumer has found drained: there no record comes that
-- would move it.
--
-- Returns 'detached'; 'busy' if somebody holds the table, and then it is not tried again for a while that grows; or 'not now'.
CREATE FUNCTION expire_partition(part text, of_topic text, drained integer[]) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    over public.table_partitions;
BEGIN
    -- One at a time; the second one does not wait.
    PERFORM FROM public.partition_settings s WHERE s.parent = 'idempotency_keys' FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 'not now';
    END IF;
    SELECT * INTO over FROM public.table_partitions p
    WHERE p.name = part AND p.parent = 'idempotency_keys' AND NOT p.detached;
    IF NOT FOUND OR over.retry_at > clock_timestamp() THEN
        RETURN 'not now';
    END IF;
    IF over.keep_until > clock_timestamp() OR EXISTS (
        SELECT FROM public.partition_progress p
        WHERE (of_topic IS NULL OR p.topic = of_topic) AND p.log_time < over.keep_until
          AND (p.partition = ANY (drained)) IS NOT TRUE
    ) THEN
        RAISE 'windows of this partition are open' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    BEGIN
        -- Everybody waits behind the first lock, so the second one is not waited for.
        LOCK TABLE ONLY public.idempotency_keys IN ACCESS EXCLUSIVE MODE;
        EXECUTE format('LOCK TABLE public.%I IN ACCESS EXCLUSIVE MODE NOWAIT', part);
        EXECUTE format('ALTER TABLE public.idempotency_keys DETACH PARTITION public.%I', part);
    EXCEPTION WHEN lock_not_available THEN
        UPDATE public.table_partitions p
        SET attempts = over.attempts + 1,
            retry_at = clock_timestamp() + least(interval '1 second' * 2 ^ least(over.attempts, 10), interval '5 minutes')
        WHERE p.name = part;
        RETURN 'busy';
    END;
    UPDATE public.table_partitions p SET detached = true WHERE p.name = part;
    RETURN 'detached';
END $$;

-- Removes the tables of detached partitions; one that somebody still reads is left for the next time. Nobody waits behind
-- this, since nobody finds those tables any more.
CREATE OR REPLACE FUNCTION drop_detached() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
DECLARE
    part    text;
    dropped integer := 0;
BEGIN
    FOR part IN SELECT p.name FROM public.table_partitions p WHERE p.detached FOR UPDATE SKIP LOCKED LOOP
        BEGIN
            EXECUTE format('DROP TABLE public.%I', part);
            DELETE FROM public.table_partitions p WHERE p.name = part;
            dropped := dropped + 1;
        EXCEPTION WHEN lock_not_available THEN NULL;
        END;
    END LOOP;
    RETURN dropped;
END $$;

-- For the owner only: lets a day of locations go.
CREATE FUNCTION detach_locations(part text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    PERFORM FROM public.partition_settings s WHERE s.parent = 'locations' FOR UPDATE;
    PERFORM FROM public.table_partitions p WHERE p.name = part AND p.parent = 'locations' AND NOT p.detached;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    LOCK TABLE ONLY public.locations IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('LOCK TABLE public.%I IN ACCESS EXCLUSIVE MODE NOWAIT', part);
    EXECUTE format('ALTER TABLE public.locations DETACH PARTITION public.%I', part);
    UPDATE public.table_partitions p SET detached = true WHERE p.name = part;
    RETURN true;
END $$;

-- For consumers of the build before, which may run for a while: by the same rules. The width is the owner's now, and what is
-- drained they cannot tell.
CREATE OR REPLACE FUNCTION ensure_partition(of_parent text, moment timestamptz, width interval, kept interval)
RETURNS TABLE (lower_end timestamptz, upper_end timestamptz)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT e.lower_end, e.upper_end FROM public.ensure_partition(of_parent, moment, kept) e;
END;
CREATE OR REPLACE FUNCTION detach_partition(part text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    RETURN public.expire_partition(part, NULL, '{}') = 'detached';
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    RETURN false;
END $$;

REVOKE ALL ON FUNCTION ensure_partition(text, timestamptz, interval), expire_partition, detach_locations FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ensure_partition(text, timestamptz, interval), expire_partition TO milepost_consumer;
