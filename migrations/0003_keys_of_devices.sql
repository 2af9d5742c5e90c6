-- Keys may be bound to a device, may expire, and say when they were last used; and a gateway finds those that have changed.
--
-- Times are held to what a calendar of four digits can hold: a program could not read 'infinity'.
ALTER TABLE api_keys
    ADD COLUMN label text CHECK (length(label) BETWEEN 1 AND 100),
    -- What an upload may have as its device: 1 to 128 characters, none a control character. NULL is any device.
    ADD COLUMN device text CHECK (device ~ '^[^\u0001-\u001f\u007f-\u009f]{1,128}$'),
    ADD COLUMN expires_at timestamptz CHECK (expires_at BETWEEN '1970-01-01 00:00:00+00' AND '9999-12-31 00:00:00+00'),
    -- To the hour; no change that anybody needs to load.
    ADD COLUMN last_used_at timestamptz
        CHECK (last_used_at BETWEEN '1970-01-01 00:00:00+00' AND '9999-12-31 00:00:00+00'),
    -- The transaction that changed the row last, as far as gateways are concerned.
    ADD COLUMN changed_in xid8 NOT NULL DEFAULT '0';

-- Room for an hour's note beside the row, so that no index is written for it.
ALTER TABLE api_keys SET (fillfactor = 80);

-- Changes are found by the number of their transaction, neither by a time nor by a sequence. Both of these are taken before
-- the commit: a change that is committed late, or by a clock that is behind, would come to lie before one that was already
-- loaded, and be missed. Here a gateway notes the xmin of its snapshot: every transaction below it was over, so what it changed
-- was seen; and everything that was not seen is of a transaction from there on. So it asks the next time for what was changed
-- from there on, and gets all of it, whenever it began, and a few rows twice while a transaction is open. That holds as long as
-- the numbers grow: on one connection, which a failover or a restore of the server does not survive.
CREATE INDEX api_keys_changed ON api_keys (changed_in, id);

CREATE FUNCTION mark_key_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.changed_in := pg_current_xact_id();
    RETURN NEW;
END $$;
CREATE TRIGGER api_keys_change
    BEFORE INSERT OR UPDATE OF secret_sha256, account_id, device, expires_at, revoked_at ON api_keys
    FOR EACH ROW EXECUTE FUNCTION mark_key_change();

-- Notes that keys were used in this hour, by the server's clock; at most 1,000 at a time. It waits for nobody: a row that
-- another gateway notes, or the owner changes, is left alone. Returns how many were noted.
CREATE FUNCTION note_key_uses(hashes bytea[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hour  timestamptz := date_trunc('hour', clock_timestamp(), 'UTC');
    noted integer;
BEGIN
    IF (cardinality(hashes) <= 1000) IS NOT TRUE THEN
        RAISE 'at most 1,000 keys are noted at a time' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    WITH due AS (
        SELECT k.id FROM public.api_keys k
        WHERE k.secret_sha256 = ANY (hashes) AND (k.last_used_at < hour) IS NOT FALSE
        FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE public.api_keys k SET last_used_at = hour FROM due WHERE k.id = due.id;
    GET DIAGNOSTICS noted = ROW_COUNT;
    RETURN noted;
END $$;

REVOKE ALL ON FUNCTION mark_key_change, note_key_uses FROM PUBLIC;
GRANT EXECUTE ON FUNCTION note_key_uses TO milepost_gateway;
