"""Weight families of Hugging Face: for each a table of tensor names and a mapping of config.json, one file a family."""
