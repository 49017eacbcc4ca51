"""The wiring: supervision, intake, uploading, watching, signals. Nothing imports it but the commands."""
