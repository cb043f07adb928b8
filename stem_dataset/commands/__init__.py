"""Commands on an existing database, and the repairs at the start of a run."""
