"""Number of files that a reader follows from the configuration to the first batch in the train step."""

from batch_path import count_files

MAX_FILES = 35
"""Of a corpus read, cleaned, tokenized and trained on for the first time; a number that grows needs a reason."""

MAX_LOADING_FILES = 14
"""Of those, files that data passes once the dataset is prepared, the evaluation of the validation split included.

One of them holds back transfers while a GPU program runs for the first time.
"""


def test_files_that_a_batch_passes(tmp_path):
    found = count_files(tmp_path)
    for name in ("data/reading/readers", "data/preparing/scan", "data/tokenizers/characters", "tasks/causal_lm"):
        assert name in found.files  # else the count is wrong
    assert found.loading.keys() >= {"data/loader", "data/pipeline", "data/prefetch", "tasks/causal_lm", "trainer"}
    assert len(found.files) <= MAX_FILES, sorted(found.files)
    assert len(found.loading) <= MAX_LOADING_FILES, sorted(found.loading)
