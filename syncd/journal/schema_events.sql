-- What the events need: the outbox, the sinks that read it, and what has been told. Times are ms since the epoch, UTC.

-- What is told, in the order in which it was committed. An event never changes.
CREATE TABLE event (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    id      TEXT NOT NULL UNIQUE,           -- follows from what is told (core/occurrences.py)
    type    TEXT NOT NULL,
    source  TEXT NOT NULL,
    subject TEXT NOT NULL,
    at_ms   INTEGER NOT NULL,
    data    TEXT NOT NULL                   -- JSON
);

-- A sink; the name is its identity. It has got, refused or not wanted every event up to its cursor.
CREATE TABLE sink (
    name            TEXT PRIMARY KEY,
    cursor          INTEGER NOT NULL,
    active          INTEGER NOT NULL DEFAULT 1,
    state           TEXT NOT NULL DEFAULT 'unknown',  -- up, down, throttled, auth, gone, unknown
    last_error      TEXT NOT NULL DEFAULT '',
    last_error_ms   INTEGER,
    last_success_ms INTEGER,
    sent            INTEGER NOT NULL DEFAULT 0,
    dropped         INTEGER NOT NULL DEFAULT 0,       -- went by while it was away for too long
    dropped_ms      INTEGER
) WITHOUT ROWID;

-- What a sink refused, whole, with its words. Numbers are shared with dead_letter: `syncd dlq` has one list.
CREATE TABLE sink_letter (
    id       INTEGER PRIMARY KEY,
    sink     TEXT NOT NULL,
    event_id TEXT NOT NULL,
    type     TEXT NOT NULL,
    source   TEXT NOT NULL,
    subject  TEXT NOT NULL,
    told_ms  INTEGER NOT NULL,
    data     TEXT NOT NULL,
    reason   TEXT NOT NULL,
    code     TEXT NOT NULL,
    status   INTEGER NOT NULL,
    at_ms    INTEGER NOT NULL,
    retry    INTEGER NOT NULL DEFAULT 0     -- 1: to be sent once more
);

-- 1 from when it was told that the destination is down until it was told that it is up.
ALTER TABLE destination ADD COLUMN told_down INTEGER NOT NULL DEFAULT 0;
-- Which end of a run was told to be synced, "" for none.
ALTER TABLE progress ADD COLUMN told TEXT NOT NULL DEFAULT '';

CREATE INDEX dead_letter_subject ON dead_letter (destination_id, subject_id);
