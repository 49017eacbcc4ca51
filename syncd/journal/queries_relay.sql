-- Statements about messages of another syncd (relayed.py, partials.py).

-- Changes a row only if the word is later than what is known.
-- name: put_relayed
INSERT INTO relayed (subject_id, section, key, place, value) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (subject_id, section, key) DO UPDATE SET place = excluded.place, value = excluded.value
WHERE excluded.place > place;

-- name: add_relayed_journal
INSERT INTO relayed (subject_id, section, key, place, value) VALUES (:subject_id, 'journal', x'', 0, :journal)
ON CONFLICT (subject_id, section, key) DO NOTHING;

-- name: relayed
SELECT value FROM relayed WHERE subject_id = :subject_id AND section = :section AND key = x'';

-- name: order_of_head
SELECT place FROM relayed WHERE subject_id = :subject_id AND section = 'head' AND key = x'';

-- name: whole_artifact
SELECT r.place, r.value FROM subject s JOIN relayed r ON r.subject_id = s.id AND r.section = 'artifact' AND r.key = :path
WHERE s.source_id = :source_id AND s.kind = :kind AND s.key = :key AND s.store = '';

-- name: is_described
SELECT head IS NOT NULL FROM subject WHERE id = :id;

-- name: partial
SELECT place, digest, size_bytes, root, pieces FROM partial
WHERE source_id = :source_id AND kind = :kind AND key = :key AND path = :path;

-- name: put_partial
INSERT INTO partial (source_id, kind, key, path, place, digest, size_bytes, root, pieces, held_bytes, most_bytes, session,
origin, about, heard_ms, grown_ms) VALUES (:source_id, :kind, :key, :path, :place, :digest, :size_bytes, :root, :pieces,
:held_bytes, :held_bytes, :session, :origin, :about, :now_ms, :now_ms)
ON CONFLICT (source_id, kind, key, path) DO UPDATE SET place = excluded.place, size_bytes = excluded.size_bytes,
root = excluded.root, pieces = excluded.pieces, held_bytes = excluded.held_bytes, session = excluded.session,
origin = excluded.origin, about = excluded.about, heard_ms = excluded.heard_ms, digest = excluded.digest,
grown_ms = CASE WHEN excluded.digest <> digest OR excluded.held_bytes > most_bytes THEN excluded.heard_ms
 ELSE grown_ms END,
given_back = CASE WHEN excluded.digest <> digest OR excluded.held_bytes > most_bytes THEN 0 ELSE given_back END,
most_bytes = CASE WHEN excluded.digest <> digest THEN excluded.held_bytes
 ELSE MAX(most_bytes, excluded.held_bytes) END;

-- Files of which something is here, that came in a session, and of which nothing has come since then, or since long;
-- or at a time to come: the clock has gone back since.
-- name: silent_partials
SELECT kind, key, path, place, digest, size_bytes, root, pieces, session, origin, about, heard_ms FROM partial
WHERE source_id = :source_id AND root <> '' AND session <> ''
AND (heard_ms < :begun_ms OR heard_ms + :silence_ms * (1 << MIN(given_back, :most_doublings)) <= :now_ms
 OR heard_ms > :now_ms + :silence_ms);

-- Nothing of it is here any more, unless more of it has come meanwhile.
-- name: give_back_partial
UPDATE partial SET root = '', pieces = '[]', held_bytes = 0, given_back = given_back + 1
WHERE source_id = :source_id AND kind = :kind AND key = :key AND path = :path AND root = :root AND heard_ms = :heard_ms;

-- name: old_partials
SELECT kind, key, path, root, held_bytes, size_bytes FROM partial
WHERE source_id = :source_id AND grown_ms < :before_ms;

-- name: drop_partial
DELETE FROM partial WHERE source_id = :source_id AND kind = :kind AND key = :key AND path = :path;

-- name: partial_count
SELECT COUNT(*) FROM partial WHERE source_id = :source_id;

-- name: partial_bytes
SELECT COALESCE(SUM(held_bytes), 0) FROM partial;

-- name: doubt_points
UPDATE delivery SET attempted = 1
WHERE section = 1 AND attempted = 0 AND subject_id IN (SELECT id FROM subject WHERE source_id = ?);

-- name: identity
SELECT id, made_s FROM identity;
