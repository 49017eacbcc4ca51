-- What overflow needs: documents and segments that are written once (core/overflow.py). Times are ms since the epoch, UTC.

-- What a destination cannot hold as it is and is therefore kept in syncd/overflow/ artifacts of the run.
CREATE TABLE overflow_kept (
    destination_id INTEGER NOT NULL,
    subject_id     INTEGER NOT NULL,
    section        TEXT NOT NULL,           -- params, tags, artifacts, inputs, metrics
    key            TEXT NOT NULL,
    value          TEXT,                    -- NULL: no longer, which is to be written down, too
    document       INTEGER,                 -- number of the document that says so; NULL: it is to be written
    PRIMARY KEY (destination_id, subject_id, section, key)
) WITHOUT ROWID;
INSERT INTO overflow_kept SELECT destination_id, subject_id, section, key, value, 1 FROM overflow;
DROP TABLE overflow;
ALTER TABLE overflow_kept RENAME TO overflow;
CREATE INDEX overflow_unwritten ON overflow (destination_id, subject_id) WHERE document IS NULL;

-- Points of metric names that have no place on a destination, until a segment holds them.
CREATE TABLE overflow_points (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    destination_id INTEGER NOT NULL,
    subject_id     INTEGER NOT NULL,
    lines          BLOB NOT NULL,
    items          INTEGER NOT NULL,
    at_ms          INTEGER NOT NULL
);
CREATE INDEX overflow_points_subject ON overflow_points (destination_id, subject_id);

-- The documents and segments of a run. What one says is fixed before it is sent, so that it may be sent again.
CREATE TABLE overflow_artifact (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    destination_id INTEGER NOT NULL,
    subject_id     INTEGER NOT NULL,
    section        TEXT NOT NULL,           -- of documents; "points" of segments
    number         INTEGER NOT NULL,
    items          INTEGER NOT NULL,
    body           BLOB,                    -- NULL once it is there
    at_ms          INTEGER NOT NULL,
    UNIQUE (destination_id, subject_id, section, number)
);
CREATE INDEX overflow_artifact_unsent ON overflow_artifact (destination_id, subject_id) WHERE body IS NOT NULL;

-- Everything that a destination still has to get.
CREATE VIEW waits AS
SELECT d.destination_id, d.subject_id, d.section, c.kind, c.items, c.size_bytes, c.at_ms, d.attempted
FROM delivery d JOIN change c ON c.seq = d.seq
UNION ALL
SELECT destination_id, subject_id, 1, 'overflow', items, length(lines), at_ms, 0 FROM overflow_points
UNION ALL
SELECT destination_id, subject_id, CASE section WHEN 'points' THEN 1 ELSE 0 END, 'overflow', items, length(body), at_ms, 1
FROM overflow_artifact WHERE body IS NOT NULL;
