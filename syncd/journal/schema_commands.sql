-- What was paused and goes on again stays, so that an older command that comes later is known to be older.

-- 0: it goes on.
ALTER TABLE pause ADD COLUMN resting INTEGER NOT NULL DEFAULT 1;
-- When the command was given, by its message; of one from before this was kept, long ago.
ALTER TABLE pause ADD COLUMN said_ms INTEGER NOT NULL DEFAULT 0;
