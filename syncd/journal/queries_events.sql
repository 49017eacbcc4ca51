-- The statements of events and sinks, by name. Loaded by queries.py.

-- name: add_event
INSERT INTO event (id, type, source, subject, at_ms, data) VALUES (:id, :type, :source, :subject, :at_ms, :data)
ON CONFLICT (id) DO NOTHING;

-- name: head_before
SELECT head FROM subject WHERE id = :id;

-- name: source_name
SELECT name FROM source WHERE id = :id;

-- An experiment's id in the store and its head.
-- name: experiment_told
SELECT key, head FROM subject WHERE id = :id;

-- A subject on a destination, with what an event says of both.
-- name: told_subject
SELECT src.name, s.source_id, s.kind, s.key, s.head, s.deleted, s.changed_ms, s.experiment_id, s.parent_key,
d.name, d.uri, COALESCE(r.remote_id, ''), COALESCE(p.told, ''), COALESCE(p.points, 0), COALESCE(p.artifacts, 0),
COALESCE(p.bytes, 0)
FROM subject s JOIN source src ON src.id = s.source_id JOIN destination d ON d.id = :destination_id
LEFT JOIN remote r ON r.destination_id = d.id AND r.subject_id = s.id
LEFT JOIN progress p ON p.destination_id = d.id AND p.subject_id = s.id
WHERE s.id = :subject_id;

-- Whether anything of a subject waits for a destination or was refused by it.
-- name: is_outstanding
SELECT EXISTS (SELECT 1 FROM waits WHERE destination_id = :destination_id AND subject_id = :subject_id)
OR EXISTS (SELECT 1 FROM overflow
  WHERE destination_id = :destination_id AND subject_id = :subject_id AND document IS NULL)
OR EXISTS (SELECT 1 FROM dead_letter WHERE destination_id = :destination_id AND subject_id = :subject_id);

-- The same of the logged models that a run made.
-- name: are_models_outstanding
SELECT EXISTS (SELECT 1 FROM subject s WHERE s.source_id = :source_id AND s.parent_key = :key AND s.kind = 'model' AND (
EXISTS (SELECT 1 FROM waits w WHERE w.destination_id = :destination_id AND w.subject_id = s.id)
OR EXISTS (SELECT 1 FROM dead_letter l WHERE l.destination_id = :destination_id AND l.subject_id = s.id)));

-- name: put_told
INSERT INTO progress (destination_id, subject_id, sent_ms, told) VALUES (:destination_id, :subject_id, 0, :told)
ON CONFLICT (destination_id, subject_id) DO UPDATE SET told = excluded.told;

-- name: artifact_body
SELECT body FROM change WHERE seq = :seq;

-- name: destination_told
SELECT name, uri, told_down FROM destination WHERE id = :id;

-- name: put_told_down
UPDATE destination SET told_down = :told_down WHERE id = :id;

-- name: events_after
SELECT seq, id, type, source, subject, at_ms, data FROM event WHERE seq > :after ORDER BY seq LIMIT :limit;

-- How many events are behind a number, and since when.
-- name: events_waiting
SELECT COUNT(*), MIN(at_ms) FROM event WHERE seq > :after;

-- name: event_seq
SELECT seq FROM event WHERE id = :id;

-- name: event_range
SELECT COALESCE(MIN(seq), 0), COALESCE(MAX(seq), 0) FROM event;

-- The number that the newest event has or had.
-- name: newest_event
SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'event'), 0);

-- name: sinks
SELECT name, cursor, active, state, last_error, last_error_ms, last_success_ms, sent, dropped, dropped_ms FROM sink
ORDER BY name;

-- name: add_sink
INSERT INTO sink (name, cursor) VALUES (:name, :cursor) ON CONFLICT (name) DO UPDATE SET active = 1;

-- name: deactivate_sink
UPDATE sink SET active = 0 WHERE name = :name;

-- name: sink_cursor
SELECT cursor FROM sink WHERE name = :name;

-- name: move_sink
UPDATE sink SET cursor = MAX(cursor, :cursor), sent = sent + :sent,
last_success_ms = CASE WHEN :sent > 0 THEN :now_ms ELSE last_success_ms END WHERE name = :name;

-- name: sink_up
UPDATE sink SET state = 'up', last_success_ms = :now_ms WHERE name = :name;

-- name: sink_trouble
UPDATE sink SET state = :state, last_error = :error, last_error_ms = :now_ms WHERE name = :name;

-- name: least_cursor
SELECT MIN(cursor) FROM sink WHERE active = 1;

-- name: sinks_behind
SELECT name, (SELECT COUNT(*) FROM event WHERE seq > cursor AND seq <= :last) FROM sink WHERE cursor < :last AND active = 1;

-- name: drop_for_sink
UPDATE sink SET dropped = dropped + :dropped, dropped_ms = :now_ms, cursor = :cursor WHERE name = :name;

-- name: drop_events
DELETE FROM event WHERE seq <= :last;

-- The next number of a dead letter: of a destination's, a sink's, or a message.
-- name: next_letter
SELECT MAX(COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'dead_letter'), 0),
COALESCE((SELECT MAX(id) FROM sink_letter), 0)) + 1;

-- name: add_sink_letter
INSERT INTO sink_letter (id, sink, event_id, type, source, subject, told_ms, data, reason, code, status, at_ms)
VALUES (:id, :sink, :event_id, :type, :source, :subject, :told_ms, :data, :reason, :code, :status, :now_ms);

-- Have the numbers of destinations' dead letters go on behind this one (sqlite_sequence may be written).
-- name: begin_letter_numbers
INSERT INTO sqlite_sequence (name, seq) SELECT 'dead_letter', 0
WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'dead_letter');

-- name: raise_letter_numbers
UPDATE sqlite_sequence SET seq = MAX(seq, :id) WHERE name = 'dead_letter';

-- name: sink_letters
SELECT id, sink, event_id, type, source, subject, told_ms, data, reason, code, status, at_ms, retry FROM sink_letter
ORDER BY id;

-- name: sink_letters_to_retry
SELECT id, event_id, type, source, subject, told_ms, data FROM sink_letter WHERE sink = :sink AND retry = 1 ORDER BY id
LIMIT :limit;

-- name: retry_sink_letter
UPDATE sink_letter SET retry = 1 WHERE id = :id;

-- name: drop_sink_letter
DELETE FROM sink_letter WHERE id = :id;

-- name: refuse_sink_letter
UPDATE sink_letter SET retry = 0, reason = :reason, code = :code, status = :status, at_ms = :now_ms WHERE id = :id;

-- name: sink_letter_counts
SELECT sink, COUNT(*) FROM sink_letter GROUP BY sink;
