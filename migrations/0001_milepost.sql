-- The first schema: design in ARCHITECTURE.md, "Tables". Migrations are added, never changed.
--
-- Times: accepted_at, expires_at, received_at, log_time and emitted_time are journal time (Kafka's LogAppendTime of the
-- record in location-uploads), never a program's clock. captured_at is the phone's.

CREATE TABLE accounts (
    id         uuid PRIMARY KEY,
    name       text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id    uuid NOT NULL REFERENCES accounts (id),
    secret_sha256 bytea NOT NULL UNIQUE CHECK (octet_length(secret_sha256) = 32),
    prefix        text NOT NULL UNIQUE,
    created_at    timestamptz NOT NULL DEFAULT now(),
    revoked_at    timestamptz
);

-- One row per key and window, inserted once, already final. The primary key holds within a partition only; that a key
-- has one open window across the border is the fence's work (partition_progress).
CREATE TABLE idempotency_keys (
    key_hash         bytea NOT NULL CHECK (octet_length(key_hash) = 32),
    account_id       uuid NOT NULL,
    fingerprint      bytea NOT NULL CHECK (octet_length(fingerprint) = 32),
    response_status  smallint NOT NULL,
    response_body    bytea NOT NULL,
    accepted_at      timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL,
    source_partition integer NOT NULL,
    source_offset    bigint NOT NULL,
    PRIMARY KEY (key_hash, accepted_at)
) PARTITION BY RANGE (accepted_at);

-- The fence (next_offset, compared and set first in every batch) and the clock of expiry (log_time). Everything below
-- emitted_offset has been acknowledged on location-results and locations; emitted_time is its journal time.
CREATE TABLE partition_progress (
    topic          text NOT NULL,
    partition      integer NOT NULL,
    next_offset    bigint NOT NULL DEFAULT 0,
    log_time       timestamptz NOT NULL DEFAULT '-infinity',
    emitted_offset bigint NOT NULL DEFAULT 0,
    emitted_time   timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);

CREATE TABLE devices (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id       uuid NOT NULL REFERENCES accounts (id),
    device           text NOT NULL,
    last_seen_at     timestamptz NOT NULL,
    last_captured_at timestamptz NOT NULL,
    last_latitude    double precision NOT NULL,
    last_longitude   double precision NOT NULL,
    UNIQUE (account_id, device)
);

CREATE TABLE locations (
    device_id        bigint NOT NULL,
    captured_at      timestamptz NOT NULL,
    latitude         double precision NOT NULL,
    longitude        double precision NOT NULL,
    accuracy         double precision,
    altitude         double precision,
    bearing          double precision,
    speed            double precision,
    battery_level    double precision,
    provider         text,
    network_type     text,
    received_at      timestamptz NOT NULL,
    source_partition integer NOT NULL,
    source_offset    bigint NOT NULL,
    ordinal          integer NOT NULL
) PARTITION BY RANGE (received_at);
CREATE INDEX locations_device_captured ON locations (device_id, captured_at);

-- Records that can never be persisted, whole, with the reason.
CREATE TABLE dead_letters (
    topic        text NOT NULL,
    partition    integer NOT NULL,
    "offset"     bigint NOT NULL,
    journal_time timestamptz NOT NULL,
    record_key   bytea,
    record_value bytea,
    reason       text NOT NULL,
    PRIMARY KEY (topic, partition, "offset")
);

-- The live partitions of idempotency_keys and locations, and those detached but not yet dropped.
CREATE TABLE table_partitions (
    name        text PRIMARY KEY,
    parent      text NOT NULL CHECK (parent IN ('idempotency_keys', 'locations')),
    lower_bound timestamptz NOT NULL,
    upper_bound timestamptz NOT NULL,
    -- No row of the partition matters to anybody from this journal time on.
    keep_until  timestamptz NOT NULL,
    detached    boolean NOT NULL DEFAULT false,
    CHECK (lower_bound < upper_bound)
);

-- Makes sure a partition of `parent` covers `moment`, and that it is kept until `kept` after its upper bound. Returns the
-- bounds. Attaching takes SHARE UPDATE EXCLUSIVE on the parent, so readers and writers go on; CREATE TABLE .. PARTITION OF
-- would lock them out. A changed width (the TTL is a setting) is clipped to what already exists.
CREATE FUNCTION ensure_partition(of_parent text, moment timestamptz, width interval, kept interval)
RETURNS TABLE (lower_end timestamptz, upper_end timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    low  timestamptz;
    high timestamptz;
    part text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('milepost.partitions', 0));
    UPDATE table_partitions p SET keep_until = greatest(p.keep_until, p.upper_bound + kept)
    WHERE p.parent = of_parent AND p.lower_bound <= moment AND moment < p.upper_bound AND NOT p.detached
    RETURNING p.lower_bound, p.upper_bound INTO low, high;
    IF NOT FOUND THEN
        low := date_bin(width, moment, timestamptz '2000-01-01 00:00:00+00');
        high := low + width;
        SELECT greatest(low, max(p.upper_bound)) INTO low FROM table_partitions p
        WHERE p.parent = of_parent AND NOT p.detached AND p.upper_bound <= moment;
        SELECT least(high, min(p.lower_bound)) INTO high FROM table_partitions p
        WHERE p.parent = of_parent AND NOT p.detached AND p.lower_bound > moment;
        part := of_parent || '_' || to_char(low AT TIME ZONE 'UTC', 'YYYYMMDD"t"HH24MISSMS');
        -- A detached namesake waits for its drop.
        IF EXISTS (SELECT FROM table_partitions p WHERE p.name = part) THEN
            part := part || '_' || substr(md5(random()::text), 1, 6);
        END IF;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)',
                       part, of_parent);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', of_parent, part, low, high);
        INSERT INTO table_partitions (name, parent, lower_bound, upper_bound, keep_until)
        VALUES (part, of_parent, low, high, high + kept);
    END IF;
    RETURN QUERY SELECT low, high;
END $$;

-- Detaching locks the parent for an instant; the file removal, which can be long, happens in drop_detached.
CREATE FUNCTION detach_partition(part text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    of_parent text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('milepost.partitions', 0));
    SELECT p.parent INTO of_parent FROM table_partitions p WHERE p.name = part AND NOT p.detached;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', of_parent, part);
    UPDATE table_partitions SET detached = true WHERE name = part;
    RETURN true;
END $$;

CREATE FUNCTION drop_detached() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    part    text;
    dropped integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('milepost.partitions', 0));
    FOR part IN SELECT name FROM table_partitions WHERE detached LOOP
        EXECUTE format('DROP TABLE %I', part);
        DELETE FROM table_partitions WHERE name = part;
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;

-- The roles are the cluster's, so another database may have made them, even at this moment.
DO $$ BEGIN
    CREATE ROLE milepost_gateway LOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
DO $$ BEGIN
    CREATE ROLE milepost_consumer LOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;

REVOKE ALL ON FUNCTION ensure_partition, detach_partition, drop_detached FROM PUBLIC;

GRANT SELECT ON idempotency_keys, api_keys, partition_progress, _sqlx_migrations TO milepost_gateway;

GRANT SELECT ON accounts, table_partitions, _sqlx_migrations TO milepost_consumer;
GRANT SELECT, INSERT ON idempotency_keys, dead_letters TO milepost_consumer;
GRANT INSERT ON locations TO milepost_consumer;
GRANT SELECT, INSERT, UPDATE ON partition_progress, devices TO milepost_consumer;
GRANT EXECUTE ON FUNCTION ensure_partition, detach_partition, drop_detached TO milepost_consumer;
