"""Names of the tags by which syncd finds on a destination what it has put there (CONTRACT.md, guarantee 3)."""

SOURCE_RUN_ID = "syncd.source_run_id"
SOURCE_MODEL_ID = "syncd.source_model_id"
SOURCE = "syncd.source"
# A random id of the process that created the run: it can ask which runs of an experiment are not its own.
SESSION = "syncd.session"
DEVICE = "syncd.device"  # whose run it is, where messages say that
OVERFLOW = "syncd.overflow"
LAST_ACTIVITY = "syncd.last_activity"  # of a run that has been silent for long
EXPERIMENT_NAME = "syncd.experiment_name"  # whole, where the name of an experiment is longer than a destination holds
RELAY_ORDER = "syncd.relay_order"  # of the latest word about how a run stands that any gateway has brought
PREFIX = "syncd."
# By which syncd marks what it has brought. A source that was itself filled by syncd has them too; they cannot be
# copied, and no message may set them.
MARKS = (SOURCE_RUN_ID, SOURCE_MODEL_ID, SOURCE, SESSION, RELAY_ORDER)

PARENT_RUN_ID = "mlflow.parentRunId"
RUN_NAME = "mlflow.runName"
NOTE = "mlflow.note.content"

OVERFLOW_FOLDER = "syncd/overflow"
MODELS_FOLDER = "syncd/models"  # of a destination that keeps logged models among the artifacts of runs
MODEL_LINKS_FOLDER = "syncd/model_links"
DATASTORES_FOLDER = "syncd/datastores"  # what a run has in datastores of a workspace
OWN_FOLDER = "syncd"
