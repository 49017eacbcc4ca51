-- Statements about overflow; see queries.sql.

-- A value that is kept already need not be written again.
-- name: keep_overflow
INSERT INTO overflow (destination_id, subject_id, section, key, value) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (destination_id, subject_id, section, key) DO UPDATE SET value = excluded.value, document = NULL
WHERE value IS NOT excluded.value;

-- name: release_overflow
UPDATE overflow SET value = NULL, document = NULL
WHERE destination_id = ? AND subject_id = ? AND section = ? AND key = ? AND value IS NOT NULL;

-- What a refused document said is to be said again: as it is by now, or that it is no longer kept.
-- name: restate_overflow
INSERT INTO overflow (destination_id, subject_id, section, key, value) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (destination_id, subject_id, section, key) DO UPDATE SET document = NULL;

-- A metric name whose points go to segments; the index is written when a segment is there.
-- name: add_overflow_name
INSERT INTO overflow (destination_id, subject_id, section, key, value, document) VALUES (?, ?, 'metrics', ?, '{}', 0)
ON CONFLICT (destination_id, subject_id, section, key) DO NOTHING;

-- name: overflow
SELECT key, value FROM overflow WHERE destination_id = :destination_id AND subject_id = :subject_id
AND section = :section AND value IS NOT NULL ORDER BY key;

-- name: overflow_counts
SELECT section, COUNT(*) FROM overflow WHERE destination_id = :destination_id AND subject_id = :subject_id
AND value IS NOT NULL GROUP BY section ORDER BY section;

-- name: unwritten_overflow
SELECT section, key, value FROM overflow WHERE destination_id = :destination_id AND subject_id = :subject_id
AND document IS NULL ORDER BY section, key;

-- name: mark_overflow_written
UPDATE overflow SET document = ? WHERE destination_id = ? AND subject_id = ? AND section = ? AND key = ? AND value IS ?;

-- name: drop_overflow_tombstones
DELETE FROM overflow WHERE destination_id = :destination_id AND subject_id = :subject_id AND section = :section
AND value IS NULL AND document IS NOT NULL;

-- name: drop_overflow
DELETE FROM overflow WHERE destination_id = ? AND subject_id = ? AND section = ? AND key = ?;

-- name: forget_overflow
DELETE FROM overflow WHERE destination_id = :destination_id AND subject_id = :subject_id;

-- name: forget_overflow_artifacts
DELETE FROM overflow_artifact WHERE destination_id = :destination_id AND subject_id = :subject_id AND body IS NULL;

-- name: take_over_overflow
INSERT INTO overflow (destination_id, subject_id, section, key, value, document) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (destination_id, subject_id, section, key) DO NOTHING;

-- name: add_overflow_points
INSERT INTO overflow_points (destination_id, subject_id, lines, items, at_ms)
VALUES (:destination_id, :subject_id, :lines, :items, :now_ms);

-- name: overflow_points_sums
SELECT COUNT(*), COALESCE(SUM(items), 0), COALESCE(SUM(length(lines)), 0), COALESCE(MIN(at_ms), 0) FROM overflow_points
WHERE destination_id = :destination_id AND subject_id = :subject_id;

-- name: overflow_points
SELECT id, lines, items FROM overflow_points
WHERE destination_id = :destination_id AND subject_id = :subject_id AND id > :after ORDER BY id LIMIT :limit;

-- name: drop_overflow_points
DELETE FROM overflow_points WHERE id = ?;

-- name: last_overflow_artifact
SELECT COALESCE(MAX(number), 0) FROM overflow_artifact
WHERE destination_id = :destination_id AND subject_id = :subject_id AND section = :section;

-- name: put_overflow_artifact
INSERT INTO overflow_artifact (destination_id, subject_id, section, number, items, body, at_ms)
VALUES (:destination_id, :subject_id, :section, :number, :items, :body, :now_ms)
ON CONFLICT (destination_id, subject_id, section, number) DO UPDATE SET items = excluded.items, body = excluded.body,
at_ms = excluded.at_ms;

-- name: unsent_overflow_artifact
SELECT section, number, items, body FROM overflow_artifact
WHERE destination_id = :destination_id AND subject_id = :subject_id AND body IS NOT NULL ORDER BY id LIMIT 1;

-- name: overflow_artifacts
SELECT section, number FROM overflow_artifact
WHERE destination_id = :destination_id AND subject_id = :subject_id ORDER BY section, number;

-- name: renumber_overflow_artifact
UPDATE overflow_artifact SET number = :to WHERE destination_id = :destination_id AND subject_id = :subject_id
AND section = :section AND number = :number;

-- name: overflow_artifact_arrived
UPDATE overflow_artifact SET body = NULL WHERE destination_id = :destination_id AND subject_id = :subject_id
AND section = :section AND number = :number;

-- name: drop_overflow_artifact
DELETE FROM overflow_artifact WHERE destination_id = :destination_id AND subject_id = :subject_id
AND section = :section AND number = :number;
