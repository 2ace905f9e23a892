"""Documents: their text, what kind they are, and their chunks. Pure functions; nothing here knows the database."""
