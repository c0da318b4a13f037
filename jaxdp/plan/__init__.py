"""Plans: memory, collectives and step time of a configuration on devices that need not be here."""
