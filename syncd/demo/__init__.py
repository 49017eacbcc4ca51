"""The demo: a real server, real trainings and the daemon on one machine; each is a process of its own."""
