"""Text cleaning: the steps of `data.cleaning`, from records to cleaned records."""
