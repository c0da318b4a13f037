"""From files and data sets to records: which files, their bytes, their lines, what each holds."""
