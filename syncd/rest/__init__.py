"""A REST client shared by the adapters: one session, deadlines, credentials, streamed bodies, one error tree."""
