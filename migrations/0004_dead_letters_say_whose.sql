-- A dead letter that is a point set aside says whose it is. Poison says nothing of the kind that could be relied on.
--
-- No foreign key: a letter must never fail to be written, and stays when its account is gone.
ALTER TABLE dead_letters
    ADD COLUMN account_id uuid,
    ADD COLUMN device     text;
