-- What the journal keeps of messages. Times are ms since the epoch, UTC, by this machine's clock where they end in
-- seen_ms, heard_ms or at_ms.

-- Digests of the identities of what was taken, so that nothing is taken twice; the oldest are forgotten.
CREATE TABLE inbox (
    seq       INTEGER PRIMARY KEY,
    source_id INTEGER NOT NULL,
    digest    BLOB NOT NULL,
    at_ms     INTEGER NOT NULL,
    UNIQUE (source_id, digest)
);

-- What messages have said of a run so far (core/messages/runs.py). Its head is not stated to destinations before its
-- start was heard of, or some time has passed.
CREATE TABLE message_run (
    subject_id INTEGER PRIMARY KEY,
    source_id  INTEGER NOT NULL,
    state      TEXT NOT NULL,
    stated     INTEGER NOT NULL DEFAULT 0,
    ended      INTEGER NOT NULL DEFAULT 0,
    stale      TEXT NOT NULL DEFAULT '',   -- the status that it is taken to have ended with, or "stale"; '': neither
    seen_ms    INTEGER NOT NULL,           -- first and
    heard_ms   INTEGER NOT NULL            -- last message of it
);
CREATE INDEX message_run_unstated ON message_run (source_id, seen_ms) WHERE stated = 0;
CREATE INDEX message_run_open ON message_run (source_id, heard_ms) WHERE ended = 0 AND stale = '';

-- When each param, tag and artifact of a run was said: which word counts follows from it.
CREATE TABLE message_value (
    subject_id INTEGER NOT NULL,
    section    TEXT NOT NULL,              -- param, tag, artifact
    key        TEXT NOT NULL,
    time_ms    INTEGER NOT NULL,           -- by the message
    value      TEXT NOT NULL,              -- of an artifact its digest
    PRIMARY KEY (subject_id, section, key)
) WITHOUT ROWID;

-- Directories of the spool: an artifact that came in a message lies there until every destination has it.
CREATE TABLE spooled (
    root       TEXT PRIMARY KEY,
    subject_id INTEGER NOT NULL,
    seq        INTEGER NOT NULL,           -- the change that states it
    size_bytes INTEGER NOT NULL
) WITHOUT ROWID;

-- Messages that were refused and that their broker cannot keep. Numbers are shared with dead_letter, as sink_letter's.
CREATE TABLE refused_message (
    id           INTEGER PRIMARY KEY,
    source_id    INTEGER NOT NULL,
    message_id   TEXT NOT NULL,
    address      TEXT NOT NULL,
    content_type TEXT NOT NULL,
    headers      TEXT NOT NULL,            -- JSON
    body         BLOB NOT NULL,
    reason       TEXT NOT NULL,
    description  TEXT NOT NULL,
    sent_ms      INTEGER,
    at_ms        INTEGER NOT NULL,
    again        INTEGER NOT NULL DEFAULT 0  -- 1: it is to be tried again
);

-- What happened in other services, for rules; the oldest are forgotten.
CREATE TABLE foreign_event (
    seq       INTEGER PRIMARY KEY AUTOINCREMENT,
    source_id INTEGER NOT NULL,
    name      TEXT NOT NULL,
    time_ms   INTEGER NOT NULL,            -- by the message
    service   TEXT NOT NULL,
    subject   TEXT NOT NULL,
    data      TEXT NOT NULL,               -- JSON
    at_ms     INTEGER NOT NULL
);

-- Sources and destinations that a command has paused.
CREATE TABLE pause (
    kind  TEXT NOT NULL,                   -- source, destination
    name  TEXT NOT NULL,
    source TEXT NOT NULL,                  -- whose message said so
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID;

-- What became of the messages of each source.
CREATE TABLE message_count (
    source_id INTEGER PRIMARY KEY,
    taken     INTEGER NOT NULL DEFAULT 0,  -- events, as the next two
    repeated  INTEGER NOT NULL DEFAULT 0,
    ignored   INTEGER NOT NULL DEFAULT 0,
    refused   INTEGER NOT NULL DEFAULT 0,  -- messages
    last_ms   INTEGER NOT NULL
);
