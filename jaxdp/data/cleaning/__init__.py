"""From records to cleaned records: the steps of `data.cleaning`."""
