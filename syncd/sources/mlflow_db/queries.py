"""All SQL of this source.

``{table.column}`` stands for the column's name, or NULL where the store's schema has no such column (see
``schema``). Lists of ids travel as one JSON array, so each statement is prepared once whatever their number.
Every statement is a single autocommit SELECT, bounded by LIMIT or by the ids given.
"""

# --- schema ---------------------------------------------------------------------------------------------------------

# Raised by SQLite with every change of the schema: tells when to probe again.
SCHEMA_VERSION = "PRAGMA schema_version"

# Tables and how they were made (WITHOUT ROWID is only told there).
TABLES = "SELECT name, coalesce(sql, '') FROM sqlite_master WHERE type IN ('table', 'view')"

# Columns of one table.
COLUMNS = "SELECT name FROM pragma_table_info(?)"

# First columns of the indexes of one table.
INDEXED = """
SELECT info.name FROM pragma_index_list(?) AS list JOIN pragma_index_info(list.name) AS info WHERE info.seqno = 0
"""

# --- experiments ----------------------------------------------------------------------------------------------------

# A page of experiments, by id. There are few: they are compared whole.
EXPERIMENTS = """
SELECT {experiments.experiment_id}, {experiments.name}, {experiments.lifecycle_stage}
FROM experiments WHERE experiment_id > ? ORDER BY experiment_id LIMIT ?
"""

# Tags of some experiments.
EXPERIMENT_TAGS = """
SELECT experiment_id, "key", {experiment_tags.value} FROM experiment_tags
WHERE experiment_id IN (SELECT value FROM json_each(?))
"""

# --- runs -----------------------------------------------------------------------------------------------------------

# Rowids and ids of the next runs. New rows get the greatest rowid + 1, so this is a feed of new runs.
RUNS_PAGE = "SELECT rowid, run_uuid FROM runs WHERE rowid > ? ORDER BY rowid LIMIT ?"

# Which run has this rowid: it is another one after `mlflow gc` or VACUUM.
RUN_AT = "SELECT run_uuid FROM runs WHERE rowid = ?"

# Runs that may change: not ended, or ended just now. One scan of the table, once after the start.
RUNS_LIVE = """
SELECT run_uuid FROM runs
WHERE {runs.status} IN ('RUNNING', 'SCHEDULED') OR {runs.end_time} >= ? ORDER BY {runs.start_time} DESC LIMIT ?
"""

# Which of these quiet runs, not ended when last seen, have ended or were deleted since.
RUNS_ENDED = """
SELECT run_uuid FROM runs WHERE run_uuid IN (SELECT value FROM json_each(?))
AND (coalesce({runs.status}, '') NOT IN ('RUNNING', 'SCHEDULED') OR coalesce({runs.lifecycle_stage}, '') = 'deleted')
"""

# Heads of some runs. A run of a deleted experiment is as good as deleted.
RUNS = """
SELECT r.run_uuid, r.{runs.name}, r.{runs.experiment_id}, r.{runs.user_id}, r.{runs.status}, r.{runs.start_time},
       r.{runs.end_time}, r.{runs.artifact_uri}, r.{runs.lifecycle_stage},
       e.experiment_id, e.{experiments.lifecycle_stage}
FROM runs AS r LEFT JOIN experiments AS e ON e.experiment_id = r.experiment_id
WHERE r.run_uuid IN (SELECT value FROM json_each(?))
"""

# Which of these runs have a row at all (`mlflow gc` removes rows).
RUNS_PRESENT = "SELECT run_uuid FROM runs WHERE run_uuid IN (SELECT value FROM json_each(?))"

# Where the artifacts of these runs are.
RUN_LOCATIONS = """
SELECT run_uuid, {runs.artifact_uri} FROM runs WHERE run_uuid IN (SELECT value FROM json_each(?))
"""

# Params and tags of some runs.
PARAMS = """
SELECT run_uuid, "key", value FROM params WHERE run_uuid IN (SELECT value FROM json_each(?))
"""
TAGS = """
SELECT run_uuid, "key", value FROM tags WHERE run_uuid IN (SELECT value FROM json_each(?))
"""

# Dataset inputs of some runs.
DATASETS = """
SELECT i.destination_id, i.input_uuid, d.name, d.digest, d.dataset_source_type, d.dataset_source,
       d.{datasets.dataset_schema}, d.{datasets.dataset_profile}
FROM inputs AS i JOIN datasets AS d ON d.dataset_uuid = i.source_id
WHERE i.source_type = 'DATASET' AND i.destination_type = 'RUN'
AND i.destination_id IN (SELECT value FROM json_each(?)) ORDER BY d.name, d.digest
"""
INPUT_TAGS = """
SELECT input_uuid, name, value FROM input_tags WHERE input_uuid IN (SELECT value FROM json_each(?))
"""

# Logged models that runs used or made.
MODEL_LINKS = """
SELECT source_id, source_type, destination_id, {inputs.step} FROM inputs
WHERE source_type IN ('RUN_INPUT', 'RUN_OUTPUT') AND source_id IN (SELECT value FROM json_each(?))
ORDER BY destination_id
"""

# --- hints: rows are replaced in place, but new keys get new rowids ---------------------------------------------------

HINTS = {
    "tags": "SELECT rowid, run_uuid FROM tags WHERE rowid > ? ORDER BY rowid LIMIT ?",
    "params": "SELECT rowid, run_uuid FROM params WHERE rowid > ? ORDER BY rowid LIMIT ?",
    "inputs": "SELECT rowid, CASE destination_type WHEN 'RUN' THEN destination_id ELSE source_id END"
    " FROM inputs WHERE rowid > ? ORDER BY rowid LIMIT ?",
    "logged_model_tags": "SELECT rowid, model_id FROM logged_model_tags WHERE rowid > ? ORDER BY rowid LIMIT ?",
}
HINT_ENDS = {
    "tags": "SELECT max(rowid) FROM tags",
    "params": "SELECT max(rowid) FROM params",
    "inputs": "SELECT max(rowid) FROM inputs",
    "logged_model_tags": "SELECT max(rowid) FROM logged_model_tags",
}

# --- logged models --------------------------------------------------------------------------------------------------

MODELS_PAGE = "SELECT rowid, model_id FROM logged_models WHERE rowid > ? ORDER BY rowid LIMIT ?"
MODEL_AT = "SELECT model_id FROM logged_models WHERE rowid = ?"
MODELS_LIVE = """
SELECT model_id FROM logged_models WHERE status = 1 OR {logged_models.last_updated_timestamp_ms} >= ?
ORDER BY creation_timestamp_ms DESC LIMIT ?
"""
# Which of these models, pending when last seen, are so no more.
MODELS_ENDED = """
SELECT model_id FROM logged_models WHERE model_id IN (SELECT value FROM json_each(?))
AND (status <> 1 OR coalesce({logged_models.lifecycle_stage}, '') = 'deleted')
"""
MODELS = """
SELECT m.model_id, m.name, m.experiment_id, m.{logged_models.model_type}, m.status,
       m.{logged_models.source_run_id}, m.creation_timestamp_ms, m.{logged_models.artifact_location},
       m.{logged_models.lifecycle_stage}, e.experiment_id, e.{experiments.lifecycle_stage},
       m.{logged_models.last_updated_timestamp_ms}
FROM logged_models AS m LEFT JOIN experiments AS e ON e.experiment_id = m.experiment_id
WHERE m.model_id IN (SELECT value FROM json_each(?))
"""
MODEL_LOCATIONS = """
SELECT model_id, {logged_models.artifact_location} FROM logged_models
WHERE model_id IN (SELECT value FROM json_each(?))
"""
MODELS_PRESENT = "SELECT model_id FROM logged_models WHERE model_id IN (SELECT value FROM json_each(?))"
MODEL_PARAMS = """
SELECT model_id, param_key, param_value FROM logged_model_params
WHERE model_id IN (SELECT value FROM json_each(?))
"""
MODEL_TAGS = """
SELECT model_id, tag_key, tag_value FROM logged_model_tags WHERE model_id IN (SELECT value FROM json_each(?))
"""

# --- what is not brought over, by table: counted ----------------------------------------------------------------------

LEFT = {
    "registered_models": "SELECT count(*) FROM registered_models",
    "trace_info": "SELECT count(*) FROM trace_info",
}

# --- points ---------------------------------------------------------------------------------------------------------

# The next points of all runs, in the order of insertion. Columns: rowid, run, key, value, timestamp, step, is_nan.
POINTS = """
SELECT rowid, run_uuid, "key", value, timestamp, {metrics.step}, {metrics.is_nan} FROM metrics
WHERE rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?
"""

# The point at a rowid: is the cursor's point still the same?
POINT_AT = """
SELECT rowid, run_uuid, "key", value, timestamp, {metrics.step}, {metrics.is_nan} FROM metrics WHERE rowid = ?
"""

# The same for one run.
POINTS_OF = """
SELECT rowid, run_uuid, "key", value, timestamp, {metrics.step}, {metrics.is_nan} FROM metrics
WHERE run_uuid = ? AND rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?
"""

# Which of these runs have points up to a rowid: with an index on run_uuid, and without (one scan).
POINTS_EXIST = """
SELECT j.value FROM json_each(?) AS j
WHERE EXISTS (SELECT 1 FROM metrics AS m WHERE m.run_uuid = j.value AND m.rowid <= ?)
"""
POINTS_EXIST_UNINDEXED = """
SELECT DISTINCT run_uuid FROM metrics WHERE run_uuid IN (SELECT value FROM json_each(?)) AND +rowid <= ?
"""

POINTS_END = "SELECT max(rowid) FROM metrics"

# The points of logged models. Columns as above, then run, dataset name, dataset digest. MLflow stores a NaN here as
# 0.0 (seen in 3.1 to 3.17, 2026-11); the same point of the run, found by the primary key, knows better. `log_metric`
# commits it after the model's: until then is_nan is NULL, unknown.
_MODEL_POINT = """
SELECT rowid, model_id, metric_name, metric_value, metric_timestamp_ms, metric_step,
       CASE WHEN metric_value <> 0.0 OR run_id IS NULL THEN 0 ELSE (
         SELECT max(m.{metrics.is_nan}) FROM metrics AS m WHERE m."key" = metric_name
         AND m.timestamp = metric_timestamp_ms AND m.{metrics.step} = metric_step AND m.run_uuid = run_id) END,
       run_id, {logged_model_metrics.dataset_name}, {logged_model_metrics.dataset_digest} FROM logged_model_metrics
"""
MODEL_POINTS = _MODEL_POINT + "WHERE rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?"
MODEL_POINT_AT = _MODEL_POINT + "WHERE rowid = ?"
MODEL_POINTS_OF = _MODEL_POINT + "WHERE model_id = ? AND rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?"
MODEL_POINTS_EXIST = """
SELECT j.value FROM json_each(?) AS j
WHERE EXISTS (SELECT 1 FROM logged_model_metrics AS m WHERE m.model_id = j.value AND m.rowid <= ?)
"""
MODEL_POINTS_END = "SELECT max(rowid) FROM logged_model_metrics"

# --- points where the table has no rowid: counted per run, read again whole when the count moved ----------------------

POINTS_COUNTED = """
SELECT run_uuid, count(*) FROM metrics WHERE run_uuid IN (SELECT value FROM json_each(?)) GROUP BY run_uuid
"""
POINTS_UNORDERED = """
SELECT 0, run_uuid, "key", value, timestamp, {metrics.step}, {metrics.is_nan} FROM metrics
WHERE run_uuid = ? ORDER BY "key", timestamp, 6, value, 7 LIMIT ? OFFSET ?
"""
