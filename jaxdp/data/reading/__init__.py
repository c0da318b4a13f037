"""Readers: from files, datasets and registered sources to records."""
