"""The daemon's own HTTP server: who may ask, what is asked for, and what it is answered. It knows no journal."""
