-- What the journal keeps of messages of another syncd. Orders are those of core/relay/values.py.

-- Which journal this is: to those it relays to, another journal of the same machine is another one.
CREATE TABLE identity (
    id     TEXT NOT NULL,
    made_s INTEGER NOT NULL                -- since the epoch
);
INSERT INTO identity (id, made_s) VALUES (lower(hex(randomblob(16))), CAST(strftime('%s', 'now') AS INTEGER));

-- The latest word about each thing of a subject: an older one that comes later does not count.
CREATE TABLE relayed (
    subject_id INTEGER NOT NULL,
    section    TEXT NOT NULL,              -- param, tag, artifact, head; journal: by which it was heard of first
    key        BLOB NOT NULL,              -- UTF-8
    place      INTEGER NOT NULL,           -- its order
    value      TEXT NOT NULL,              -- of an artifact its digest; of a head that no relay told: reopened
    PRIMARY KEY (subject_id, section, key)
) WITHOUT ROWID;

-- Files of which not all has come yet. Those of which nothing is here any more have been given back to their broker.
CREATE TABLE partial (
    source_id   INTEGER NOT NULL,
    kind        TEXT NOT NULL,             -- of its subject
    key         TEXT NOT NULL,
    path        TEXT NOT NULL,
    place       INTEGER NOT NULL,          -- the order of what told of it
    digest      TEXT NOT NULL,
    size_bytes  INTEGER NOT NULL,
    root        TEXT NOT NULL,             -- its directory in the spool
    pieces      TEXT NOT NULL,             -- JSON: what is here, as [first byte, byte after the last]
    held_bytes  INTEGER NOT NULL,
    most_bytes  INTEGER NOT NULL,          -- the most that was ever here
    session     TEXT NOT NULL,             -- of the broker,
    origin      TEXT NOT NULL,             -- who sent it,
    about       TEXT NOT NULL,             -- and what went with it, to give it back; JSON
    heard_ms    INTEGER NOT NULL,
    grown_ms    INTEGER NOT NULL,          -- when more of it was here than ever before
    given_back  INTEGER NOT NULL DEFAULT 0, -- how often
    PRIMARY KEY (source_id, kind, key, path)
) WITHOUT ROWID;
