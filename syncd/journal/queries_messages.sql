-- Statements about messages (inbox.py, refused_messages.py, report.py).

-- name: add_to_inbox
INSERT INTO inbox (source_id, digest, at_ms) VALUES (?, ?, ?) ON CONFLICT (source_id, digest) DO NOTHING;

-- name: forget_identity
DELETE FROM inbox WHERE source_id = ? AND digest = ? AND seq <= ? AND at_ms <= ?;

-- The plus keeps SQLite from sorting all that its index has of the source.
-- name: last_of_source
SELECT seq, at_ms FROM inbox WHERE +source_id = :source_id AND seq <= :up_to ORDER BY seq DESC LIMIT 1;

-- name: newest_in_inbox
SELECT COALESCE(MAX(seq), 0) FROM inbox;

-- name: inbox_after
SELECT digest FROM inbox WHERE seq > :seq;

-- Forget all but the newest, and what is old; the ids are in the order of time.
-- name: prune_inbox
DELETE FROM inbox WHERE seq <= MAX((SELECT MAX(seq) FROM inbox) - :most,
COALESCE((SELECT MAX(seq) FROM (SELECT seq, at_ms FROM inbox ORDER BY seq LIMIT :slice) WHERE at_ms < :oldest_ms), 0));

-- name: active_destinations
SELECT id FROM destination WHERE active = 1;

-- name: message_run
SELECT state, stated, stale, seen_ms FROM message_run WHERE subject_id = :subject_id;

-- name: put_message_run
INSERT INTO message_run (subject_id, source_id, state, stated, ended, stale, seen_ms, heard_ms)
VALUES (:subject_id, :source_id, :state, :stated, :ended, '', :now_ms, :now_ms)
ON CONFLICT (subject_id) DO UPDATE SET state = excluded.state, stated = excluded.stated, ended = excluded.ended,
stale = '', heard_ms = excluded.heard_ms;

-- What was seen at a time to come was seen before the clock went back.
-- name: unstated_runs
SELECT subject_id FROM message_run
WHERE source_id = :source_id AND stated = 0 AND (seen_ms <= :before_ms OR seen_ms > :now_ms);

-- name: mark_stated
UPDATE message_run SET stated = 1 WHERE subject_id = :subject_id;

-- name: silent_runs
SELECT subject_id FROM message_run
WHERE source_id = :source_id AND ended = 0 AND stale = '' AND stated = 1 AND heard_ms <= :before_ms LIMIT 1000;

-- name: stale_as
SELECT stale FROM message_run WHERE subject_id = :subject_id;

-- name: mark_stale
UPDATE message_run SET stale = :stale WHERE subject_id = :subject_id;

-- name: run_key
SELECT key FROM subject WHERE id = :subject_id;

-- name: message_value
SELECT time_ms, value FROM message_value WHERE subject_id = :subject_id AND section = :section AND key = :key;

-- name: put_message_value
INSERT INTO message_value (subject_id, section, key, time_ms, value) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (subject_id, section, key) DO UPDATE SET time_ms = excluded.time_ms, value = excluded.value;

-- name: count_messages
INSERT INTO message_count (source_id, taken, repeated, ignored, refused, last_ms)
VALUES (:source_id, :taken, :repeated, :ignored, :refused, :now_ms)
ON CONFLICT (source_id) DO UPDATE SET taken = taken + excluded.taken, repeated = repeated + excluded.repeated,
ignored = ignored + excluded.ignored, refused = refused + excluded.refused, last_ms = excluded.last_ms;

-- name: begin_message_count
INSERT INTO message_count (source_id, last_ms) VALUES (:source_id, 0) ON CONFLICT (source_id) DO NOTHING;

-- name: message_sources
SELECT source_id FROM message_count;

-- name: message_counts
SELECT src.name AS source, c.taken, c.repeated, c.ignored, c.refused, NULLIF(c.last_ms, 0) AS last_ms,
(SELECT COUNT(*) FROM refused_message r WHERE r.source_id = c.source_id) AS dead_letters,
(SELECT COUNT(*) FROM partial p WHERE p.source_id = c.source_id AND p.held_bytes > 0) AS files_in_part,
(SELECT COALESCE(SUM(held_bytes), 0) FROM partial p WHERE p.source_id = c.source_id) AS bytes_in_part
FROM message_count c JOIN source src ON src.id = c.source_id ORDER BY src.name;

-- name: add_foreign_event
INSERT INTO foreign_event (source_id, name, time_ms, service, subject, data, at_ms)
VALUES (:source_id, :name, :time_ms, :service, :subject, :data, :now_ms);

-- name: prune_foreign_events
DELETE FROM foreign_event WHERE seq <= (SELECT MAX(seq) FROM foreign_event) - :most;

-- name: foreign_events
SELECT o.seq, o.name, o.time_ms, o.service, o.subject, o.data FROM foreign_event o
WHERE o.seq > :after ORDER BY o.seq LIMIT :limit;

-- Changes nothing if a newer command was taken before. One that is still to come was taken while the clock was wrong.
-- name: put_pause
INSERT INTO pause (kind, name, source, at_ms, resting, said_ms)
VALUES (:kind, :name, :source, :now_ms, :resting, :said_ms)
ON CONFLICT (kind, name) DO UPDATE SET source = excluded.source, at_ms = excluded.at_ms, resting = excluded.resting,
said_ms = excluded.said_ms WHERE excluded.said_ms >= said_ms OR said_ms > :now_ms;

-- name: pauses
SELECT kind, name, source, at_ms FROM pause WHERE resting = 1 ORDER BY kind, name;

-- name: add_spooled
INSERT INTO spooled (root, subject_id, seq, size_bytes, digest) VALUES (?, ?, ?, ?, ?);

-- The digest of what lies in a directory of the spool, and of the latest word about a path of its subject;
-- both are given as bytes.
-- name: artifact_digests
SELECT (SELECT digest FROM spooled WHERE root = CAST(:root AS TEXT)), COALESCE(
(SELECT value FROM message_value WHERE subject_id = :subject_id AND section = 'artifact' AND key = CAST(:path AS TEXT)),
(SELECT value FROM relayed WHERE subject_id = :subject_id AND section = 'artifact' AND key = :path));

-- name: spooled_roots
SELECT root FROM spooled UNION ALL SELECT root FROM partial WHERE root <> '';

-- name: spooled_bytes
SELECT COALESCE(SUM(size_bytes), 0) FROM spooled;

-- Directories that nothing points at any more: neither the change that stated them, nor a dead letter, nor the change
-- that a dead letter became when it was put back.
-- name: unneeded_roots
SELECT s.root FROM spooled s
WHERE NOT EXISTS (SELECT 1 FROM change c WHERE c.seq = s.seq)
AND NOT EXISTS (SELECT 1 FROM dead_letter l
 WHERE l.subject_id = s.subject_id AND l.kind = 'artifact' AND instr(l.body, CAST(s.root AS BLOB)) > 0)
AND NOT EXISTS (SELECT 1 FROM destination t JOIN delivery d ON d.destination_id = t.id AND d.subject_id = s.subject_id
 AND d.section = 2 JOIN change c ON c.seq = d.seq WHERE instr(c.body, CAST(s.root AS BLOB)) > 0)
LIMIT 1000;

-- name: drop_spooled
DELETE FROM spooled WHERE root = ?;

-- name: add_refused_message
INSERT INTO refused_message (id, source_id, message_id, address, content_type, headers, body, reason, description,
sent_ms, at_ms, packet, in_part) VALUES (:id, :source_id, :message_id, :address, :content_type, :headers, :body, :reason,
:description, :sent_ms, :now_ms, :packet, :in_part);

-- name: refuse_again
UPDATE refused_message SET again = 0, reason = :reason, description = :description, in_part = MAX(in_part, :in_part)
WHERE id = :id;

-- Of a message that does not say when it was sent, the time counts at which it came.
-- name: refused_to_retry
SELECT id, message_id, address, content_type, headers, body, COALESCE(sent_ms, at_ms), packet, in_part FROM refused_message
WHERE source_id = :source_id AND again = 1 ORDER BY id LIMIT :limit;

-- name: drop_refused_message
DELETE FROM refused_message WHERE id = :id;

-- name: retry_refused_message
UPDATE refused_message SET again = 1 WHERE id = :id;

-- name: refused_bytes
SELECT COUNT(*), COALESCE(SUM(length(body)), 0) FROM refused_message;

-- name: drop_oldest_refused_message
DELETE FROM refused_message WHERE id = (SELECT MIN(id) FROM refused_message);

-- name: is_refused_message
SELECT EXISTS (SELECT 1 FROM refused_message WHERE id = :id AND source_id = :source_id AND message_id = :message_id
AND address = :address AND (message_id <> '' OR (content_type, headers) = (:content_type, :headers)) AND body = :body);

-- name: refused_messages
SELECT id, message_id, address, content_type, headers, body, sent_ms, packet, in_part FROM refused_message
WHERE source_id = :source_id AND id > :after ORDER BY id LIMIT :limit;
