"""Captions that a person wrote or changed, as a model reads them."""

from dataclasses import replace
from typing import TYPE_CHECKING

from captioner.errors import OptionError
from captioner.results import Caption

if TYPE_CHECKING:
    from captioner.pipeline import Captioner
    from captioner.prepared import Prepared


def read_edited(model: "Captioner", prepared: "Prepared", text: str) -> Caption:
    """A person's caption with the probability and the map of each of its words, as `Captioner.read_prepared` has them.

    Its ``text`` stays as it was written, with capitals and punctuation, which models do not read.

    Raises:
        OptionError: it has no words, or more than the model can read.
    """
    count, read = len(model.vocabulary.split(text)), len(model.split(text))
    if count > read:  # of a foreign model, whose words may have several pieces, fewer than its length
        raise OptionError(f"the caption has {count} words, and the model reads {read}", remedy="shorten it")
    (caption,) = model.read_prepared(prepared, [text])
    return replace(caption, text=" ".join(text.split()))
