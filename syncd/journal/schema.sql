-- The journal's schema, version 1. Times are ms since the epoch, UTC. JSON is UTF-8 text.
-- WAL, synchronous=FULL: what is committed survives power loss.

-- A configured source; the name is its identity.
CREATE TABLE source (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

-- A destination; the URI is its identity. Destinations of one audience have been fed by the same reading since
-- their beginning; one that joins later belongs to an audience of its own, for which the sources are read anew.
CREATE TABLE destination (
    id              INTEGER PRIMARY KEY,
    uri             TEXT NOT NULL UNIQUE,
    name            TEXT NOT NULL,
    audience        INTEGER NOT NULL,
    active          INTEGER NOT NULL DEFAULT 1,
    state           TEXT NOT NULL DEFAULT 'unknown',  -- up, down, throttled, auth, unknown
    last_error      TEXT NOT NULL DEFAULT '',
    last_error_ms   INTEGER,
    last_success_ms INTEGER
);

-- How far each source was read, per audience.
CREATE TABLE cursor (
    source_id INTEGER NOT NULL,
    audience  INTEGER NOT NULL,
    key       TEXT NOT NULL,
    value     BLOB NOT NULL,
    PRIMARY KEY (source_id, audience, key)
) WITHOUT ROWID;

-- Experiments, runs and logged models of the sources. head is the last *Seen fact as JSON.
CREATE TABLE subject (
    id            INTEGER PRIMARY KEY,
    source_id     INTEGER NOT NULL,
    kind          TEXT NOT NULL,            -- experiment, run, model
    key           TEXT NOT NULL,            -- its id in the store
    store         TEXT NOT NULL,            -- for experiments: which store of the source
    head          TEXT,
    experiment_id INTEGER,                  -- subject of the experiment
    parent_key    TEXT NOT NULL DEFAULT '', -- parent run's or source run's id in the store
    deleted       INTEGER NOT NULL DEFAULT 0,
    tags          TEXT NOT NULL DEFAULT '{}', -- as last stated, for filters and rules; long values shortened
    changed_ms    INTEGER NOT NULL,
    UNIQUE (source_id, kind, key, store)
);
CREATE INDEX subject_parent ON subject (source_id, parent_key) WHERE parent_key <> '';

-- What was read and is not yet delivered everywhere. section orders the work of one subject:
-- 0 small facts, 1 metrics, 2 artifacts, 3 head (sent last: status and end).
CREATE TABLE change (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    subject_id INTEGER NOT NULL,
    section    INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    body       BLOB NOT NULL,
    items      INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    again      INTEGER NOT NULL,            -- 0 new; 1 part of a first reading; 2 the source stated it before
    at_ms      INTEGER NOT NULL
);

-- One row for each change that a destination still has to get.
CREATE TABLE delivery (
    destination_id INTEGER NOT NULL,
    subject_id     INTEGER NOT NULL,
    section        INTEGER NOT NULL,
    seq            INTEGER NOT NULL,
    attempted      INTEGER NOT NULL DEFAULT 0,  -- 1: a request with it may have reached the server
    PRIMARY KEY (destination_id, subject_id, section, seq)
) WITHOUT ROWID;
CREATE INDEX delivery_seq ON delivery (seq);

-- A subject's identity on a destination, and what was sent of it.
CREATE TABLE remote (
    destination_id INTEGER NOT NULL,
    subject_id     INTEGER NOT NULL,
    remote_id      TEXT NOT NULL,
    artifact_root  TEXT NOT NULL DEFAULT '',
    adopted        INTEGER NOT NULL DEFAULT 0,
    appends        INTEGER NOT NULL DEFAULT 1,
    bound_ms       INTEGER NOT NULL,
    checked        INTEGER NOT NULL DEFAULT 0,  -- looked up once more after the create: no twin of another daemon
    PRIMARY KEY (destination_id, subject_id)
) WITHOUT ROWID;
CREATE INDEX remote_unchecked ON remote (destination_id, bound_ms) WHERE checked = 0 AND adopted = 0;

-- What was delivered, per subject, for status and runs.
CREATE TABLE progress (
    destination_id INTEGER NOT NULL,
    subject_id     INTEGER NOT NULL,
    points         INTEGER NOT NULL DEFAULT 0,
    artifacts      INTEGER NOT NULL DEFAULT 0,
    bytes          INTEGER NOT NULL DEFAULT 0,
    sent_ms        INTEGER NOT NULL,
    note           TEXT NOT NULL DEFAULT '',    -- why nothing goes on just now ("filtered", "artifact changes", ...)
    PRIMARY KEY (destination_id, subject_id)
) WITHOUT ROWID;

-- How much was delivered lately, in spans of 10 s, for rates. Seven slots are used in turn: a whole minute and the
-- span that has just begun.
CREATE TABLE pace (
    destination_id INTEGER NOT NULL,
    slot           INTEGER NOT NULL,        -- begun_ms / 10000 % 7
    begun_ms       INTEGER NOT NULL,
    points         INTEGER NOT NULL,
    bytes          INTEGER NOT NULL,
    PRIMARY KEY (destination_id, slot)
) WITHOUT ROWID;

-- What a destination refused, whole, with its words.
CREATE TABLE dead_letter (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    destination_id INTEGER NOT NULL,
    subject_id     INTEGER NOT NULL,
    section        INTEGER NOT NULL,
    kind           TEXT NOT NULL,
    body           BLOB NOT NULL,
    items          INTEGER NOT NULL,
    reason         TEXT NOT NULL,
    code           TEXT NOT NULL,
    status         INTEGER NOT NULL,
    at_ms          INTEGER NOT NULL
);

-- What a destination cannot hold as it is and is therefore kept in syncd/overflow/ artifacts of the run.
CREATE TABLE overflow (
    destination_id INTEGER NOT NULL,
    subject_id     INTEGER NOT NULL,
    section        TEXT NOT NULL,           -- params, tags, artifacts
    key            TEXT NOT NULL,
    value          TEXT NOT NULL,
    PRIMARY KEY (destination_id, subject_id, section, key)
) WITHOUT ROWID;

-- What in a source could not be read as it is.
CREATE TABLE problem (
    source_id  INTEGER NOT NULL,
    location   TEXT NOT NULL,
    what       TEXT NOT NULL,
    subject_id INTEGER,
    at_ms      INTEGER NOT NULL,
    PRIMARY KEY (source_id, location)
) WITHOUT ROWID;
