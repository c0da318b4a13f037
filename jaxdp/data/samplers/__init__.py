"""From a step to the rows of its batch, and which of them a process holds; no row is read here."""
