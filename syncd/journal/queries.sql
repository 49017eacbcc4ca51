-- Every statement of the journal, by name. Loaded by queries.py.

-- name: sources
SELECT id, name FROM source;

-- name: source_id
SELECT id FROM source WHERE name = :name;

-- name: add_source
INSERT INTO source (name) VALUES (:name) ON CONFLICT (name) DO NOTHING;

-- name: destinations
SELECT id, uri, name, audience, active, state, last_error, last_error_ms, last_success_ms FROM destination;

-- name: next_audience
SELECT COALESCE(MAX(audience), 0) + 1 FROM destination;

-- name: put_destination
INSERT INTO destination (uri, name, audience) VALUES (:uri, :name, :audience)
ON CONFLICT (uri) DO UPDATE SET name = excluded.name, audience = excluded.audience, active = 1;

-- name: rename_destination
UPDATE destination SET name = :name WHERE uri = :uri;

-- name: deactivate_destination
UPDATE destination SET active = 0 WHERE id = :id;

-- A destination that comes back is read for anew: what it already holds must be found out.
-- name: doubt_remotes
UPDATE remote SET adopted = 1 WHERE destination_id = (SELECT id FROM destination WHERE uri = :uri);

-- name: destination_up
UPDATE destination SET state = 'up', last_success_ms = :now_ms WHERE id = :id;

-- name: destination_trouble
UPDATE destination SET state = :state, last_error = :error, last_error_ms = :now_ms WHERE id = :id;

-- name: audience_destinations
SELECT id FROM destination WHERE audience = :audience AND active = 1;

-- name: cursor
SELECT value FROM cursor WHERE source_id = :source_id AND audience = :audience AND key = :key;

-- Half-open range of keys with a prefix: [prefix, prefix + U+10FFFF).
-- name: cursor_keys
SELECT key FROM cursor WHERE source_id = :source_id AND audience = :audience
AND key >= :prefix AND key > :after AND key < :prefix || char(1114111) ORDER BY key LIMIT 500;

-- name: put_cursor
INSERT INTO cursor (source_id, audience, key, value) VALUES (?, ?, ?, ?)
ON CONFLICT (source_id, audience, key) DO UPDATE SET value = excluded.value;

-- name: drop_cursor
DELETE FROM cursor WHERE source_id = ? AND audience = ? AND key = ?;

-- Forget what was read of one run or model, in every audience, so that the source states it whole again.
-- name: forget_cursors
DELETE FROM cursor WHERE source_id = :source_id AND key >= :prefix AND key < :prefix || char(1114111);

-- name: subject_id
SELECT id FROM subject WHERE source_id = :source_id AND kind = :kind AND key = :key AND store = :store;

-- name: add_subject
INSERT INTO subject (source_id, kind, key, store, changed_ms) VALUES (:source_id, :kind, :key, :store, :now_ms)
ON CONFLICT (source_id, kind, key, store) DO NOTHING;

-- name: put_head
UPDATE subject SET head = :head, experiment_id = :experiment_id, parent_key = :parent_key, deleted = 0,
changed_ms = :now_ms WHERE id = :id;

-- name: touch_subject
UPDATE subject SET changed_ms = :now_ms WHERE id = :id;

-- name: mark_deleted
UPDATE subject SET deleted = 1, changed_ms = :now_ms WHERE id = :id;

-- name: subject
SELECT id, source_id, kind, key, store, head, experiment_id, parent_key, deleted, changed_ms, tags
FROM subject WHERE id = :id;

-- name: tags
SELECT tags FROM subject WHERE id = :id;

-- name: put_tags
UPDATE subject SET tags = :tags WHERE id = :id;

-- name: note_of
SELECT note FROM progress WHERE destination_id = :destination_id AND subject_id = :subject_id;

-- name: run_by_key
SELECT id FROM subject WHERE source_id = :source_id AND kind = 'run' AND key = :key AND head IS NOT NULL;

-- name: model_by_key
SELECT id FROM subject WHERE source_id = :source_id AND kind = 'model' AND key = :key AND head IS NOT NULL;

-- Remote ids of the children of a run that are already on the destination.
-- name: bound_children
SELECT r.remote_id FROM subject s JOIN remote r ON r.subject_id = s.id AND r.destination_id = :destination_id
WHERE s.source_id = :source_id AND s.parent_key = :key AND s.kind = 'run';

-- name: add_change
INSERT INTO change (subject_id, section, kind, body, items, size_bytes, again, at_ms)
VALUES (:subject_id, :section, :kind, :body, :items, :size_bytes, :again, :now_ms);

-- name: add_delivery
INSERT INTO delivery (destination_id, subject_id, section, seq) VALUES (?, ?, ?, ?);

-- name: waiting_subjects
SELECT subject_id FROM delivery WHERE destination_id = :destination_id
UNION SELECT subject_id FROM overflow_points WHERE destination_id = :destination_id
UNION SELECT subject_id FROM overflow_artifact WHERE destination_id = :destination_id AND body IS NOT NULL
UNION SELECT subject_id FROM overflow WHERE destination_id = :destination_id AND document IS NULL;

-- name: has_waiting
SELECT EXISTS (SELECT 1 FROM delivery WHERE destination_id = :destination_id);

-- name: pending
SELECT c.seq, c.kind, c.body, c.items, c.again, d.attempted, c.at_ms
FROM delivery d JOIN change c ON c.seq = d.seq
WHERE d.destination_id = :destination_id AND d.subject_id = :subject_id AND d.section = :section AND d.seq > :after
ORDER BY d.seq LIMIT :limit;

-- name: newest_change
SELECT COALESCE(MAX(seq), 0) FROM change;

-- name: has_pending
SELECT EXISTS (SELECT 1 FROM delivery WHERE destination_id = :destination_id AND subject_id = :subject_id
AND section < :section);

-- name: mark_attempted
UPDATE delivery SET attempted = 1
WHERE destination_id = ? AND subject_id = ? AND section = ? AND seq = ? AND attempted = 0;

-- name: drop_delivery
DELETE FROM delivery WHERE destination_id = ? AND subject_id = ? AND section = ? AND seq = ?;

-- A change that no destination waits for any more is done with.
-- name: drop_change
DELETE FROM change WHERE seq = ? AND NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.seq = change.seq);

-- name: remote
SELECT remote_id, artifact_root, adopted, appends, checked, bound_ms FROM remote
WHERE destination_id = :destination_id AND subject_id = :subject_id;

-- name: bind
INSERT INTO remote (destination_id, subject_id, remote_id, artifact_root, adopted, appends, bound_ms)
VALUES (:destination_id, :subject_id, :remote_id, :artifact_root, :adopted, :appends, :now_ms)
ON CONFLICT (destination_id, subject_id) DO UPDATE SET remote_id = excluded.remote_id,
artifact_root = excluded.artifact_root, adopted = excluded.adopted, appends = excluded.appends, checked = 0,
bound_ms = excluded.bound_ms;

-- name: mark_checked
UPDATE remote SET checked = 1 WHERE destination_id = ? AND subject_id = ?;

-- The next runs or models of an experiment that have no identity on a destination; + keeps the rows in their order.
-- name: unbound_keys
SELECT s.key FROM subject s LEFT JOIN remote r ON r.destination_id = :destination_id AND r.subject_id = s.id
WHERE s.id > :after AND +s.source_id = :source_id AND +s.kind = :kind AND s.experiment_id = :experiment_id
AND r.subject_id IS NULL AND s.deleted = 0 ORDER BY s.id LIMIT :limit;

-- Whether a run or model of any source with that id has an identity on a destination (a store under two names).
-- name: key_is_bound
SELECT 1 FROM source
CROSS JOIN subject s ON s.source_id = source.id AND s.kind = :kind AND s.key = :key
CROSS JOIN remote r ON r.destination_id = :destination_id AND r.subject_id = s.id LIMIT 1;

-- What was bound at a time to come was bound before the clock went back.
-- name: unchecked
SELECT r.subject_id, s.kind, s.key, r.remote_id, e.remote_id FROM remote r
JOIN subject s ON s.id = r.subject_id AND s.kind IN ('run', 'model')
JOIN remote e ON e.destination_id = r.destination_id AND e.subject_id = s.experiment_id
WHERE r.destination_id = :destination_id AND r.checked = 0 AND r.adopted = 0
AND (r.bound_ms < :before_ms OR r.bound_ms > :now_ms + 60000) LIMIT 20000;

-- name: add_progress
INSERT INTO progress (destination_id, subject_id, points, artifacts, bytes, sent_ms)
VALUES (:destination_id, :subject_id, :points, :artifacts, :bytes, :now_ms)
ON CONFLICT (destination_id, subject_id) DO UPDATE SET points = points + excluded.points,
artifacts = artifacts + excluded.artifacts, bytes = bytes + excluded.bytes, sent_ms = excluded.sent_ms;

-- Add to what was delivered in the present span of time; a slot of an older round is begun anew.
-- name: add_pace
INSERT INTO pace (destination_id, slot, begun_ms, points, bytes)
VALUES (:destination_id, :now_ms / 10000 % 7, :now_ms - :now_ms % 10000, :points, :bytes)
ON CONFLICT (destination_id, slot) DO UPDATE SET
points = excluded.points + CASE WHEN begun_ms = excluded.begun_ms THEN points ELSE 0 END,
bytes = excluded.bytes + CASE WHEN begun_ms = excluded.begun_ms THEN bytes ELSE 0 END,
begun_ms = excluded.begun_ms;

-- name: pace
SELECT COALESCE(SUM(points), 0) AS points, COALESCE(SUM(bytes), 0) AS bytes FROM pace
WHERE destination_id = :destination_id AND begun_ms BETWEEN :since_ms AND :now_ms;

-- name: put_note
INSERT INTO progress (destination_id, subject_id, sent_ms, note) VALUES (:destination_id, :subject_id, 0, :note)
ON CONFLICT (destination_id, subject_id) DO UPDATE SET note = excluded.note WHERE note <> excluded.note;

-- name: add_dead_letter
INSERT INTO dead_letter (destination_id, subject_id, section, kind, body, items, reason, code, status, at_ms)
VALUES (:destination_id, :subject_id, :section, :kind, :body, :items, :reason, :code, :status, :now_ms);

-- All dead letters, or those of one subject; what sinks refused is of subject 0, an event. The bodies are read one by
-- one (dead_letter_body).
-- name: dead_letters
SELECT l.id, d.name AS destination, src.name AS source, s.kind AS subject_kind, s.key AS subject_key, s.id AS subject_id,
l.kind, l.items, length(l.body) AS size_bytes, l.reason, l.code, l.status, l.at_ms
FROM dead_letter l JOIN destination d ON d.id = l.destination_id JOIN subject s ON s.id = l.subject_id
JOIN source src ON src.id = s.source_id
WHERE :subject_id IS NULL OR l.subject_id = :subject_id
UNION ALL
SELECT id, sink, source, 'event', event_id, 0, type, 1, length(data), reason, code, status, at_ms FROM sink_letter
WHERE :subject_id IS NULL
UNION ALL
SELECT r.id, 'syncd', src.name, 'message', r.message_id, 0, 'message', 1, length(r.body), r.description, r.reason, 0,
r.at_ms FROM refused_message r JOIN source src ON src.id = r.source_id
WHERE :subject_id IS NULL ORDER BY id;

-- name: dead_letter_body
SELECT body FROM dead_letter WHERE id = :id UNION ALL SELECT CAST(data AS BLOB) FROM sink_letter WHERE id = :id
UNION ALL SELECT CAST(json_object('address', address, 'content_type', content_type, 'headers', json(headers),
'body', hex(body)) AS BLOB) FROM refused_message WHERE id = :id;

-- A dead letter with what its source states about its subject by now.
-- name: dead_letter
SELECT l.destination_id, l.subject_id, l.section, l.kind, l.body, l.items, s.head, s.tags, s.deleted
FROM dead_letter l JOIN subject s ON s.id = l.subject_id
WHERE l.id = :id;

-- name: dead_letter_ids
SELECT id FROM dead_letter UNION ALL SELECT id FROM sink_letter UNION ALL SELECT id FROM refused_message ORDER BY id;

-- name: dead_letter_count
SELECT COUNT(*) FROM dead_letter WHERE destination_id = :destination_id;

-- name: drop_dead_letter
DELETE FROM dead_letter WHERE id = :id;

-- name: put_problem
INSERT INTO problem (source_id, location, what, subject_id, at_ms)
VALUES (:source_id, :location, :what, :subject_id, :now_ms)
ON CONFLICT (source_id, location) DO UPDATE SET what = excluded.what, at_ms = excluded.at_ms;

-- name: drop_problem
DELETE FROM problem WHERE source_id = :source_id AND location = :location;

-- name: problems
SELECT src.name AS source, p.location, p.what, p.subject_id, p.at_ms FROM problem p JOIN source src
ON src.id = p.source_id ORDER BY src.name, p.location;

-- What waits for a destination, by source.
-- name: waiting
SELECT src.name AS source, COUNT(DISTINCT CASE WHEN s.kind = 'run' THEN s.id END) AS runs, COUNT(*) AS changes,
COALESCE(SUM(CASE WHEN w.section = 1 THEN w.items ELSE 0 END), 0) AS points,
COALESCE(SUM(CASE WHEN w.section = 2 THEN 1 ELSE 0 END), 0) AS artifacts,
COALESCE(SUM(w.size_bytes), 0) AS bytes, MIN(w.at_ms) AS oldest_ms
FROM waits w JOIN subject s ON s.id = w.subject_id
JOIN source src ON src.id = s.source_id
WHERE w.destination_id = :destination_id GROUP BY src.name ORDER BY src.name;

-- name: sent
SELECT COALESCE(SUM(points), 0) AS points, COALESCE(SUM(artifacts), 0) AS artifacts,
COALESCE(SUM(bytes), 0) AS bytes, COALESCE(MAX(sent_ms), 0) AS last_ms,
(SELECT COUNT(*) FROM remote r JOIN subject s ON s.id = r.subject_id
 WHERE r.destination_id = :destination_id AND s.kind = 'run') AS runs
FROM progress WHERE destination_id = :destination_id;

-- name: overflow_count
SELECT COUNT(*) FROM overflow WHERE destination_id = :destination_id AND value IS NOT NULL;

-- Runs of the sources with the subject ids of a range (one run, or all), described or not yet.
-- name: run_heads
SELECT s.id, src.name AS source, s.key, s.head, s.parent_key, s.deleted, s.changed_ms, s.experiment_id, m.state AS heard,
EXISTS (SELECT 1 FROM message_count c WHERE c.source_id = s.source_id) AS came_in_messages
FROM subject s JOIN source src ON src.id = s.source_id LEFT JOIN message_run m ON m.subject_id = s.id
WHERE s.kind = 'run' AND s.id BETWEEN :first AND :last ORDER BY s.id;

-- name: experiments
SELECT id, key, head FROM subject WHERE kind = 'experiment';

-- Where the runs of a range stand on every destination that is configured or once had them. Each count is made once
-- for all runs, so that thousands of runs cost one pass over what waits.
-- name: runs
WITH
waiting AS (
  SELECT destination_id, subject_id, COUNT(*) AS changes, MIN(at_ms) AS oldest_ms,
  SUM(CASE WHEN section = 1 THEN items ELSE 0 END) AS points, SUM(section = 2) AS artifacts,
  SUM(size_bytes) AS bytes
  FROM waits
  WHERE destination_id IN (SELECT id FROM destination) AND subject_id BETWEEN :first AND :last
  GROUP BY destination_id, subject_id),
letters AS (
  SELECT destination_id, subject_id, COUNT(*) AS count FROM dead_letter
  WHERE subject_id BETWEEN :first AND :last GROUP BY destination_id, subject_id),
overflows AS (
  SELECT destination_id, subject_id, COUNT(*) AS count FROM overflow
  WHERE destination_id IN (SELECT id FROM destination) AND subject_id BETWEEN :first AND :last AND value IS NOT NULL
  GROUP BY destination_id, subject_id)
SELECT s.id, d.id AS destination_id, r.remote_id, COALESCE(p.points, 0) AS points,
COALESCE(p.artifacts, 0) AS artifacts, COALESCE(p.bytes, 0) AS bytes,
MAX(COALESCE(p.sent_ms, 0), COALESCE(r.bound_ms, 0)) AS sent_ms, COALESCE(p.note, '') AS note,
COALESCE(w.changes, 0) AS changes_waiting, COALESCE(w.points, 0) AS points_waiting,
COALESCE(w.artifacts, 0) AS artifacts_waiting, COALESCE(w.bytes, 0) AS bytes_waiting, w.oldest_ms,
COALESCE(l.count, 0) AS dead_letters, COALESCE(o.count, 0) AS overflow
FROM subject s CROSS JOIN destination d
LEFT JOIN remote r ON r.destination_id = d.id AND r.subject_id = s.id
LEFT JOIN progress p ON p.destination_id = d.id AND p.subject_id = s.id
LEFT JOIN waiting w ON w.destination_id = d.id AND w.subject_id = s.id
LEFT JOIN letters l ON l.destination_id = d.id AND l.subject_id = s.id
LEFT JOIN overflows o ON o.destination_id = d.id AND o.subject_id = s.id
WHERE s.kind = 'run' AND s.id BETWEEN :first AND :last
AND (d.active = 1 OR r.remote_id IS NOT NULL OR w.changes > 0) ORDER BY s.id, d.id;

-- Runs that a destination knows by an id that is this or begins with it.
-- name: runs_by_remote_id
SELECT DISTINCT r.subject_id, r.remote_id FROM remote r JOIN subject s ON s.id = r.subject_id
WHERE s.kind = 'run' AND substr(r.remote_id, 1, length(:id)) = :id;

-- What waits of one subject for one destination, by kind, in the order in which it is sent.
-- name: waiting_kinds
SELECT kind, COUNT(*) AS changes, SUM(items) AS items, SUM(size_bytes) AS bytes, MIN(at_ms) AS oldest_ms,
SUM(attempted) AS attempted
FROM waits
WHERE destination_id = :destination_id AND subject_id = :subject_id
GROUP BY section, kind ORDER BY section, MIN(at_ms);

-- The identity of a run's experiment on a destination, for links.
-- name: remote_experiment
SELECT r.remote_id FROM remote r JOIN subject s ON s.experiment_id = r.subject_id
WHERE s.id = :subject_id AND r.destination_id = :destination_id;

-- What is kept in overflow of one subject on one destination.
-- name: overflow_entries
SELECT section, key FROM overflow WHERE destination_id = :destination_id AND subject_id = :subject_id
AND value IS NOT NULL ORDER BY section, key;

-- Runs that got an identity since then which they had on a destination before.
-- name: runs_found_since
SELECT COUNT(*) FROM remote r JOIN subject s ON s.id = r.subject_id
WHERE s.kind = 'run' AND r.adopted = 1 AND r.bound_ms >= :since_ms;

-- Sums over one destination, for progress and totals.
-- name: sums
SELECT
(SELECT COUNT(*) FROM remote r JOIN subject s ON s.id = r.subject_id
 WHERE r.destination_id = :destination_id AND s.kind = 'run') AS runs,
(SELECT COALESCE(SUM(points), 0) FROM progress WHERE destination_id = :destination_id) AS points,
(SELECT COALESCE(SUM(artifacts), 0) FROM progress WHERE destination_id = :destination_id) AS artifacts,
(SELECT COALESCE(SUM(bytes), 0) FROM progress WHERE destination_id = :destination_id) AS bytes,
(SELECT COALESCE(SUM(items), 0) FROM waits WHERE destination_id = :destination_id AND section = 1) AS points_waiting,
(SELECT COUNT(*) FROM delivery WHERE destination_id = :destination_id AND section = 2) AS artifacts_waiting,
(SELECT COALESCE(SUM(size_bytes), 0) FROM waits WHERE destination_id = :destination_id) AS bytes_waiting,
(SELECT COUNT(*) FROM dead_letter WHERE destination_id = :destination_id) AS dead_letters,
(SELECT COUNT(*) FROM overflow WHERE destination_id = :destination_id AND value IS NOT NULL) AS overflow;

-- Runs of a store that say they go on, that nothing was stated of since then, and that are not marked as silent.
-- name: silent_store_runs
SELECT id, key, changed_ms FROM subject
WHERE source_id = :source_id AND kind = 'run' AND deleted = 0 AND head IS NOT NULL AND changed_ms < :before_ms
AND json_extract(CAST(head AS TEXT), '$.status') IN ('RUNNING', 'SCHEDULED')
AND json_extract(tags, '$."syncd.last_activity"') IS NULL LIMIT 1000;

-- Runs of a store that are marked as silent, and whether they still say that they go on.
-- name: marked_store_runs
SELECT id, key, changed_ms, json_extract(CAST(head AS TEXT), '$.status') IN ('RUNNING', 'SCHEDULED') AS is_open,
json_extract(tags, '$."syncd.last_activity"') AS mark FROM subject
WHERE source_id = :source_id AND kind = 'run' AND deleted = 0 AND tags LIKE '%syncd.last_activity%'
AND json_extract(tags, '$."syncd.last_activity"') IS NOT NULL;

-- name: set_changed
UPDATE subject SET changed_ms = :changed_ms WHERE id = :id;
