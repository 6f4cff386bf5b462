"""The command ``captioner evaluate``: score a results file, or caption pictures first and then score."""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.errors import DataError, OptionError

if TYPE_CHECKING:
    from captioner.metrics.cider import DocumentFrequencies
    from captioner.metrics.report import Report
    from captioner.metrics.sources import Annotations, Id


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = "Score captions as the official COCO evaluation does: BLEU, ROUGE-L, CIDEr."
    parser.add_argument(
        "--annotations",
        type=Path,
        required=True,
        metavar="FILE",
        help="the references: COCO or Karpathy JSON, Flickr8k token file, CSV, JSONL; .gz too",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--results", type=Path, metavar="FILE", help="captions: COCO results, CSV, JSONL; .gz too")
    source.add_argument("--images", type=Path, metavar="DIR", help="caption the pictures in this folder, then score")
    parser.add_argument("--split", help="score one split: its name, or a file that lists file names")
    parser.add_argument(
        "--references",
        type=int,
        default=0,
        metavar="N",
        help="score the pictures with at least N references; those with fewer make figures that compare with no other",
    )
    parser.add_argument("--partial", action="store_true", help="score the pictures that are there")
    parser.add_argument(
        "--document-frequencies",
        type=Path,
        metavar="FILE",
        help="a saved table for CIDEr; those of the scored set if not given",
    )
    parser.add_argument(
        "--save-document-frequencies",
        type=Path,
        metavar="FILE",
        help="write those of the annotations; needs neither --results nor --images",
    )
    more = parser.add_argument_group("beside the scores")
    more.add_argument("--compare", type=Path, metavar="FILE", help="other results: differences and their p-values")
    more.add_argument("--bootstrap", type=int, metavar="N", help="95%% intervals from N resamples, e.g. 1000")
    more.add_argument("--seed", type=int, default=0, help="of resampling (default 0)")
    more.add_argument("--no-baselines", action="store_true", help="leave out the constant and the human score")
    more.add_argument("--meteor", action="store_true", help="METEOR 1.5; needs Java and pycocoevalcap")
    more.add_argument("--spice", action="store_true", help="SPICE; needs Java and pycocoevalcap")
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print JSON and no table")
    output.add_argument("--per-image", type=Path, metavar="FILE", help="write a CSV with a row for each picture")
    captions = parser.add_argument_group("with --images")
    captions.add_argument("--model", help="a name that 'captioner models' lists, or a model file")
    captions.add_argument("--device", help="cpu, cuda, ...; the CPU if not given")
    captions.add_argument("--beam", type=int, metavar="N", help="width of the beam; 1 is greedy")
    captions.add_argument("--save-results", type=Path, metavar="FILE", help="keep the captions, as COCO results")


def run(options: argparse.Namespace) -> int:
    """Run the command: 0, or 1 if pictures failed and --partial scored the others. Raises DataError,
    OptionError."""
    from captioner.metrics.cider import DocumentFrequencies
    from captioner.metrics.evaluate import FewPicturesWarning
    from captioner.metrics.sources import name_as, read_annotations, read_results

    _check(options)
    annotations = read_annotations(options.annotations, split=options.split, at_least=options.references)
    if options.save_document_frequencies is not None:
        _save_frequencies(annotations, options.save_document_frequencies, partial=options.partial)
    if options.results is None and options.images is None:
        return 0
    frequencies = DocumentFrequencies.load(options.document_frequencies) if options.document_frequencies else None
    failed = 0
    if options.images is not None:
        captions, failed = _caption_pictures(options, annotations)
    else:
        captions = name_as(read_results(options.results), annotations, partial=options.partial)
    other = name_as(read_results(options.compare), annotations, partial=options.partial) if options.compare else None

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FewPicturesWarning)
        report = _report(options, annotations, captions, other, frequencies)
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"captioner: {text}", file=sys.stderr)
    _show(options, report, captions)
    return 1 if failed else 0


def _save_frequencies(annotations: "Annotations", path: Path, *, partial: bool) -> None:
    from captioner.metrics.cider import DocumentFrequencies
    from captioner.metrics.references import References

    with _naming(Path(annotations.source)):
        references = References({key: group for key, group in annotations.references.items() if group or not partial})
    if not references:
        raise DataError(f"{annotations.source} has no captions to count")
    DocumentFrequencies.of(list(references.values())).save(path)
    print(f"captioner: {path}: document frequencies of {len(references):,} pictures", file=sys.stderr)


def _check(options: argparse.Namespace) -> None:
    if options.results is None and options.images is None and options.save_document_frequencies is None:
        raise OptionError("give captions to score: --results FILE, or --images DIR to caption its pictures first")
    if options.bootstrap is not None and options.bootstrap < 1:
        raise OptionError(f"--bootstrap must be at least 1, not {options.bootstrap}")
    if options.references < 0:
        raise OptionError(f"--references must not be negative, as {options.references} is")
    if options.seed < 0:
        raise OptionError(f"--seed must not be negative, as {options.seed} is")
    for name in ("per_image", "save_results", "save_document_frequencies"):
        path = getattr(options, name)
        if path is not None and not path.parent.is_dir():  # said now and not after an hour of captioning
            raise OptionError(f"--{name.replace('_', '-')}: cannot write {path}: there is no folder {path.parent}")
    if options.images is None:
        for name in ("model", "device", "beam", "save_results"):
            if getattr(options, name) is not None:
                raise OptionError(f"--{name.replace('_', '-')} goes with --images, not with --results")
    if options.meteor or options.spice:
        from captioner.metrics.meteor import missing

        lacking = missing()
        if lacking is not None:
            raise OptionError(f"{'--meteor' if options.meteor else '--spice'} needs {lacking}")


def _report(
    options: argparse.Namespace,
    annotations: "Annotations",
    captions: Mapping["Id", str],
    other: Mapping["Id", str] | None,
    frequencies: "DocumentFrequencies | None",
) -> "Report":
    from captioner.metrics.baselines import constant_scores, human_scores
    from captioner.metrics.description import describe
    from captioner.metrics.evaluate import evaluate
    from captioner.metrics.meteor import Measure, java_score
    from captioner.metrics.references import References
    from captioner.metrics.report import Report
    from captioner.metrics.resampling import bootstrap, compare
    from captioner.tokenizer.ptb import tokenize_all

    texts = annotations.references
    notes: list[str] = []
    if options.partial:
        texts, captions, other = _common(texts, captions, other)
        total = max(len(annotations.references), len(texts))
        notes.append(f"partial: {len(texts):,} of {total:,} pictures scored")
    with _naming(options.annotations):
        references = References(texts)
    with _naming(options.results):
        scores = evaluate(captions, references, document_frequencies=frequencies)
    others = None
    if other is not None:
        with _naming(options.compare):
            others = evaluate(other, references, document_frequencies=frequencies)
    described = describe(tokenize_all([captions[key] for key in texts]))
    if described.empty:
        notes.append(f"{described.empty} captions have no words; the first is of picture {_first_empty(captions)!r}")
    measures: dict[Measure, bool] = {"METEOR": options.meteor, "SPICE": options.spice}
    extra = {measure: java_score(measure, captions, texts) for measure, wanted in measures.items() if wanted}
    return Report(
        scores=scores,
        signature=f"{scores.signature} | set {options.annotations.name}{f' {options.split}' if options.split else ''}",
        description=described,
        notes=tuple(notes),
        extra={measure: total for measure, (total, _) in extra.items()},
        extra_per_picture={measure: each for measure, (_, each) in extra.items()},
        intervals=bootstrap(scores, resamples=options.bootstrap, seed=options.seed) if options.bootstrap else None,
        constant=None if options.no_baselines else constant_scores(texts, document_frequencies=frequencies),
        human=None if options.no_baselines else human_scores(texts, document_frequencies=frequencies),
        other=others,
        differences=compare(scores, others, seed=options.seed) if others is not None else None,
    )


@contextmanager
def _naming(path: Path | None) -> Iterator[None]:
    """Faults of a file's content get its name, where there is one."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}" if path else str(error)) from None


def _common(
    references: Mapping["Id", list[str]], captions: Mapping["Id", str], other: Mapping["Id", str] | None
) -> tuple[dict["Id", list[str]], dict["Id", str], dict["Id", str] | None]:
    """What all sides have, for --partial."""
    ids = [key for key, group in references.items() if group and key in captions and (other is None or key in other)]
    if not ids:
        raise DataError("no picture has both a caption and references; check that both name pictures in the same way")
    kept = None if other is None else {key: other[key] for key in ids}
    return {key: references[key] for key in ids}, {key: captions[key] for key in ids}, kept


def _first_empty(captions: Mapping["Id", str]) -> "Id":
    from captioner.tokenizer.ptb import tokenize

    return next(key for key, caption in captions.items() if not tokenize(caption))


def _caption_pictures(options: argparse.Namespace, annotations: "Annotations") -> tuple[dict["Id", str], int]:
    from captioner.metrics.folder import caption_folder

    captions, failures = caption_folder(
        options.images,
        annotations,
        model=options.model,
        device=options.device,
        beam=options.beam,
        partial=options.partial,
    )
    if options.save_results is not None:
        _write_results(captions, options.save_results)
    if failures and not options.partial:
        raise DataError(f"{failures} pictures could not be captioned; mend them, or score the others (--partial)")
    return captions, failures


def _write_results(captions: Mapping["Id", str], path: Path) -> None:
    content: list[dict[str, Any]] = [{"image_id": key, "caption": caption} for key, caption in captions.items()]
    try:
        path.write_text(json.dumps(content), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from None


def _show(options: argparse.Namespace, report: "Report", captions: Mapping["Id", str]) -> None:
    from rich.console import Console

    from captioner.metrics.report import print_report, write_per_picture

    if options.json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        print_report(report, Console(width=None if sys.stdout.isatty() else 160))
    if options.per_image is not None:
        write_per_picture(report, captions, options.per_image)
