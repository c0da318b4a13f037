"""From records to arrays on disk: one look at all of them, then tokenized in parallel, kept in a cache."""
