"""What gives the numbers of a run their meaning: its tokenizers and its labels."""

from dataclasses import dataclass

from jaxdp.data.tokenizers import Tokenizer, load_tokenizer
from jaxdp.tasks import Labels, load_labels
from jaxdp.workdir import WorkDir


@dataclass(frozen=True)
class Vocabularies:
    """Made from the training data, or those that the run began with.

    Attributes:
        tokenizer: of what is read; None for ready-made tokens, and before it is made.
        target_tokenizer: of what is written, where `data.target_tokenizer` sets one
            apart; None: `tokenizer` serves both.
        labels: of labelled data.
    """

    tokenizer: Tokenizer | None = None
    target_tokenizer: Tokenizer | None = None
    labels: Labels | None = None

    @property
    def both_tokenizers(self) -> Tokenizer | tuple[Tokenizer, Tokenizer]:
        """As `Task.prepare` takes them."""
        return (self.tokenizer, self.target_tokenizer) if self.target_tokenizer else self.tokenizer

    @property
    def written(self) -> Tokenizer | None:
        """The tokenizer of what the model writes."""
        return self.target_tokenizer or self.tokenizer

    def tokenizer_of(self, array: str) -> Tokenizer:
        """The one that an array of an example was made with: `target_tokens` by that of the target."""
        return self.written if array.startswith("target") else self.tokenizer


NONE = Vocabularies()
"""Before anything is read."""

_FILES = ("tokenizer", "target_tokenizer", "labels")


def load_vocabularies(directory: WorkDir) -> Vocabularies:
    """Those that the run of a work directory began with, where it has them."""
    load = {"tokenizer": load_tokenizer, "target_tokenizer": load_tokenizer, "labels": load_labels}
    places = {name: getattr(directory, name) for name in _FILES}
    return Vocabularies(**{name: load[name](path) for name, path in places.items() if path.is_file()})


def save_vocabularies(vocabularies: Vocabularies, directory: WorkDir) -> None:
    """Writes `tokenizer.json`, `target_tokenizer.json` and `labels.json`, as far as there are any."""
    for name in _FILES:
        if (found := getattr(vocabularies, name)) is not None:
            found.save(getattr(directory, name))
