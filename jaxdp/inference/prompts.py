"""Prompts of `jaxdp generate`, cleaned and encoded as the beginning of a training row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxdp.data.cleaning.cleaner import Cleaner
from jaxdp.data.reading.records import Record
from jaxdp.data.tokenizers import Tokenizer
from jaxdp.errors import UserError
from jaxdp.run_config import DataConfig, RunConfig
from jaxdp.tasks import Task

END_MARK = "<|end of prompt|>"
"""Stands behind a prompt while it is cleaned: what `whitespace` does at the end of a text is not for prompts."""

CONTINUES_PROMPTS = ("language_model", "decoder")
"""Head and architecture of models that continue prompts."""


def model_kind(task: Task, config: RunConfig) -> tuple[str, str]:
    """Returns head and architecture of the model of a run."""
    return task.model_options.get("head", "language_model"), config.model.architecture or "decoder"


@dataclass(frozen=True)
class Prompt:
    """One prompt as the model reads it.

    Attributes:
        text: Cleaned text, with the separator of a run that learned completions alone.
        tokens: Its ids, after end of text where training rows have that: `[n] int32`.
    """

    text: str
    tokens: np.ndarray

    def added_text(self, tokenizer: Tokenizer, tokens: np.ndarray) -> str:
        """Decodes a continuation: what it adds to the text, the blank between two words included."""
        added = tokenizer.decode_after(self.tokens, tokens)
        # The blank that ends a prompt is not repeated where the tokens do not keep it.
        loses_blank = self.text[-1:].isspace() and not tokenizer.decode(self.tokens)[-1:].isspace()
        return added.removeprefix(" ") if loses_blank else added


def make_prompts(texts: Sequence[str], data: DataConfig, task: Task, tokenizer: Tokenizer) -> list[Prompt]:
    """Prepares prompts as the training data was.

    Args:
        texts: Prompts as given; one without tokens begins a new document.
        data: Data configuration of the run.
        task: Task of the run.
        tokenizer: Tokenizer of the run.

    Raises:
        UserError: A prompt cannot be expressed, leaves no room in the context, or begins a
            document where the run did not learn how one begins.
    """
    changes = Cleaner(data.cleaning, ("text",)).changes()
    end = "" if task.prompt_end else END_MARK  # a source is a whole text

    def cleaned(text: str) -> str:
        record = changes.around((END_MARK,), Record({"text": text + end}, "prompt"))
        return record.fields["text"].removesuffix(end) + task.prompt_end

    prompts = []
    for number, text in enumerate(texts, 1):
        where = f"prompt {number} of {len(texts)}" if len(texts) > 1 else "the prompt"
        text = cleaned(text)
        try:
            tokens = tokenizer.encode(text)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        prompts.append(Prompt(text, _with_end(tokens, where, tokenizer, task.end_before_text, data.length)))
    return prompts


def _with_end(tokens: np.ndarray, where: str, tokenizer: Tokenizer, end_before_text: str, context: int) -> np.ndarray:
    """Puts end of text before a prompt's tokens where training rows have it, and checks their number."""
    if not len(tokens) and end_before_text == "never":
        raise UserError(
            f"{where} has no token, expected one or more: with data.packing=none the run did not learn how a text begins."
        )
    has_end = end_before_text == "always" or not len(tokens)
    room = context - 1 - has_end
    if len(tokens) > room:
        taken = (
            "one for the end of text before a document and one for a new token" if has_end else "one for a new token"
        )
        raise UserError(
            f"{where} has {len(tokens)} tokens, but the model's context is {context} (data.length), {taken}; shorten it "
            f"to {room} tokens."
        )
    return np.append(np.int32(tokenizer.eos_id), tokens) if has_end else tokens
