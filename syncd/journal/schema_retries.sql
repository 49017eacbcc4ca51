-- What must be known to try again what was refused: nothing is taken twice by it, and nothing newer undone.

-- The number that it had with its broker (Message.packet), and 1 when some events of it were taken.
ALTER TABLE refused_message ADD COLUMN packet INTEGER NOT NULL DEFAULT 0;
ALTER TABLE refused_message ADD COLUMN in_part INTEGER NOT NULL DEFAULT 0;

-- Which content lies there; '' is not known.
ALTER TABLE spooled ADD COLUMN digest TEXT NOT NULL DEFAULT '';
