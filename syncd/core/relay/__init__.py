"""What one syncd hands to another through a broker: its journal's changes, cut into messages and read again."""
