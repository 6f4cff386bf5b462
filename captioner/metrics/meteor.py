"""METEOR 1.5 and SPICE through the official Java programs, where they are installed.

They come with the package pycocoevalcap (``pip install captioner[coco]``) and need a Java runtime; SPICE
fetches its models on first use. Both get the words of this project's tokeniser. nltk's ``meteor_score`` is
another measure with other parameters and no paraphrases, and is not offered in their place.
"""

import contextlib
import importlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from captioner.errors import OptionError
from captioner.metrics.references import References

Measure = Literal["METEOR", "SPICE"]


def missing() -> str | None:
    """What METEOR and SPICE lack on this machine, in words for the user, or None."""
    lacking = []
    if importlib.util.find_spec("pycocoevalcap") is None:
        lacking.append("the package pycocoevalcap (pip install 'captioner[coco]')")
    if shutil.which("java") is None:
        lacking.append("a Java runtime (the command 'java')")
    return " and ".join(lacking) or None


def java_score(
    measure: Measure, hypotheses: Mapping[Any, str], references: Mapping[Any, Sequence[str]] | References
) -> tuple[float, dict[Any, float]]:
    """The corpus figure and that of each picture, by the official program.

    The ids of both must be the same. Pass `References` to tokenise them only once.

    Raises:
        OptionError: the program is missing, or fails.
    """
    lacking = missing()
    if lacking is not None:
        raise OptionError(f"{measure} needs {lacking}; install it, or leave {measure} out")
    if not isinstance(references, References):
        references = References(references)
    ids = list(references)
    ours = references.tokenize([hypotheses[key] for key in ids])
    result = {key: [" ".join(words)] for key, words in zip(ids, ours, strict=True)}
    ground_truth = {key: [" ".join(words) for words in references[key]] for key in ids}
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it reports its downloads there, amid our JSON
            module = importlib.import_module(f"pycocoevalcap.{measure.lower()}.{measure.lower()}")
            total, each = getattr(module, measure.capitalize())().compute_score(ground_truth, result)
    except (OSError, ValueError, ImportError, subprocess.SubprocessError) as error:
        fetched = "; it fetches its language models on first use, for which the machine must be on line"
        raise OptionError(
            f"the {measure} program failed: {str(error) or type(error).__name__}{fetched * (measure == 'SPICE')}"
        ) from error
    values = [entry["All"]["f"] if isinstance(entry, dict) else entry for entry in each]
    return float(total), dict(zip(ids, map(float, values), strict=True))
