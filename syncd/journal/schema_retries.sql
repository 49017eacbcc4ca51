-- With what a refused message is tried again, so that nothing of it is taken twice.

-- The number that it had with its broker (Message.packet), and 1 when some events of it were taken.
ALTER TABLE refused_message ADD COLUMN packet INTEGER NOT NULL DEFAULT 0;
ALTER TABLE refused_message ADD COLUMN in_part INTEGER NOT NULL DEFAULT 0;
