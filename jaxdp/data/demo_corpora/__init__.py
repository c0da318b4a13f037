"""Demo corpora that need no download: the standard library of the running Python, as text, labelled text and pairs."""
