"""The command ``captioner evaluate``: score a results file, or caption pictures first and then score."""

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.console import report
from captioner.commands.files import check_json, check_output, model_files, refuse_overwriting, write_whole
from captioner.commands.model_options import add_model_options, load_model
from captioner.commands.ranges import check_not_negative, check_positive, check_resamples
from captioner.errors import DataError, OptionError

if TYPE_CHECKING:
    from captioner.commands.evaluation_report import Report
    from captioner.data.readers import Annotations, Id
    from captioner.grounding.hallucination import Hallucination
    from captioner.metrics.cider import DocumentFrequencies
    from captioner.metrics.references import References

_OUTPUTS = ("per_image", "save_results", "save_document_frequencies")
_BEGINS = {  # how files of these kinds begin
    "--per-image": b"image_id,",
    "--save-results": b"[",
    "--save-document-frequencies": b'{"format"',
}
_OF_SCORES = (
    *("per_image", "compare", "hallucination", "bootstrap", "document_frequencies"),
    *("meteor", "spice", "json", "no_baselines"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Score captions as the official COCO evaluation does: BLEU, ROUGE-L, CIDEr. With --questions, score "
        "answers: the official VQA accuracy, exact accuracy and WUPS, by type."
    )
    parser.add_argument(
        "--questions",
        type=Path,
        metavar="FILE",
        help="score answers to these: an official VQA questions file, or JSON lines; --annotations and --results "
        "are then official VQA annotations and results, or JSON lines too",
    )
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
        help="score only the pictures with at least N references: figures from fewer references compare with no others",
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
    more.add_argument(
        "--hallucination",
        type=Path,
        metavar="FILE",
        help="COCO's instances_*.json: the share of captions, and of the objects that they name, that are not in the "
        "picture (CHAIR), on the pictures where all classes are annotated",
    )
    more.add_argument(
        "--no-baselines",
        action="store_true",
        help="leave out the constant and the human score; with --questions, the answers without "
        "the picture, about shuffled pictures, and the most frequent of the type",
    )
    more.add_argument("--meteor", action="store_true", help="METEOR 1.5; needs Java and pycocoevalcap")
    more.add_argument("--spice", action="store_true", help="SPICE; needs Java and pycocoevalcap")
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print JSON and no table")
    output.add_argument("--per-image", type=Path, metavar="FILE", help="write a CSV with a row for each picture")
    captions = parser.add_argument_group("with --images")
    add_model_options(captions, default=None, remark=", or answers with --questions")
    captions.add_argument("--beam", type=int, metavar="N", help="width of the beam; 1 is greedy")
    captions.add_argument("--rerank", type=float, metavar="X", help="weight of the reranker; 0 for the beam's order")
    captions.add_argument("--save-results", type=Path, metavar="FILE", help="keep the captions, as COCO results")


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is scored: references, as text and as words, and captions by the same ids."""

    texts: Mapping["Id", list[str]]
    references: "References"
    captions: Mapping["Id", str]
    other: Mapping["Id", str] | None
    notes: tuple[str, ...]


def run(options: argparse.Namespace) -> int:
    """Run the command: 0, or 1 if pictures failed and --partial scored the others.

    Files are written before anything is printed, so that a reader that stops early (``| head``) loses none.

    Raises:
        DataError: a file cannot be read or written, or captions and references do not fit together.
        OptionError: an option is out of its range, or an output is an input.
    """

    if options.questions is not None:
        from captioner.commands.evaluate_answers import run as score_answers

        return score_answers(options)
    _check(options)
    from captioner.data.readers import caption_file, name_as, read_annotations, read_results

    options.annotations = caption_file(options.annotations)
    refuse_overwriting(_outputs(options), _inputs(options))
    from captioner.metrics.cider import DocumentFrequencies
    from captioner.metrics.references import References

    annotations = read_annotations(options.annotations, split=options.split, at_least=options.references)
    known = References({})
    if options.save_document_frequencies is not None:
        _save_frequencies(annotations, options.save_document_frequencies, known, partial=options.partial)
    if options.results is None and options.images is None:
        return 0
    frequencies = DocumentFrequencies.load(options.document_frequencies) if options.document_frequencies else None
    present = _objects(options.hallucination, annotations) if options.hallucination else None
    failed = 0
    if options.images is not None:
        captions, failed = _caption_pictures(options, _with_references(options, annotations, known))
    else:
        captions = name_as(read_results(options.results, annotations), annotations, partial=options.partial)
    other = None
    if options.compare:
        other = name_as(read_results(options.compare, annotations), annotations, partial=options.partial)
    job = _job(options, annotations, captions, other, known)
    report, scored = _report(options, job, frequencies)
    if present is not None:
        report = replace(report, hallucination=_hallucination(options, job, *present))
    _show(options, report, scored)
    return 1 if failed else 0


def _outputs(options: argparse.Namespace) -> dict[str, Path | None]:
    return {f"--{name.replace('_', '-')}": getattr(options, name) for name in _OUTPUTS}


def _inputs(options: argparse.Namespace) -> Iterator[Path]:
    """Every file that the run may read. That of the model is found only where pictures are captioned."""
    given = (
        options.annotations,
        options.results,
        options.compare,
        options.document_frequencies,
        options.hallucination,
    )
    yield from (path for path in given if path is not None)
    folder = options.annotations.parent
    yield from folder.glob("*Images.txt")  # lists of splits
    if options.split is not None:
        yield from (Path(options.split), folder / options.split)
    if options.images is not None:
        from captioner.commands.evaluation_pictures import pictures_in
        from captioner.shipped import shipped_models

        yield from pictures_in(options.images)
        own = [Path(options.model).expanduser()] if options.model else []
        for model in (*shipped_models().values(), *own):
            yield from model_files(model)


def _save_frequencies(annotations: "Annotations", path: Path, known: "References", *, partial: bool) -> None:
    from captioner.metrics.cider import DocumentFrequencies
    from captioner.metrics.references import References

    texts = {key: group for key, group in annotations.references.items() if group or not partial}
    with _naming(Path(annotations.source)):
        references = References(texts, known=known)
    if not references:
        raise DataError(f"{annotations.source} has no captions to count")
    DocumentFrequencies.of(list(references.values())).save(path)
    report(f"{path}: document frequencies of {len(references):,} pictures")


def _check(options: argparse.Namespace) -> None:
    if options.results is None and options.images is None and options.save_document_frequencies is None:
        raise OptionError("give captions to score: --results FILE, or --images DIR to caption its pictures first")
    check_positive(options, "beam")
    check_resamples(options)
    check_not_negative(options, "references", "seed")
    check_json("--save-results", options.save_results)
    for option, path in _outputs(options).items():  # checked now and not after an hour of captioning
        if path is not None:
            check_output(option, path, begins=_BEGINS[option])
    if options.images is None:
        for name in ("model", "device", "backend", "threads", "map_heads", "beam", "rerank", "save_results"):
            if getattr(options, name) is not None:
                raise OptionError(f"--{name.replace('_', '-')} goes with --images, not with --results")
    if options.results is None and options.images is None:
        for name in _OF_SCORES:
            if getattr(options, name) not in (None, False):
                raise OptionError(f"--{name.replace('_', '-')} needs captions: give --results or --images")
    if options.meteor or options.spice:
        from captioner.metrics.meteor import missing

        lacking = missing()
        if lacking is not None:
            raise OptionError(f"{'--meteor' if options.meteor else '--spice'} needs {lacking}")


def _job(
    options: argparse.Namespace,
    annotations: "Annotations",
    captions: Mapping["Id", str],
    other: Mapping["Id", str] | None,
    known: "References",
) -> _Job:
    from captioner.metrics.references import References

    texts = annotations.references
    notes: list[str] = []
    if options.partial:
        texts, captions, other = _common(texts, captions, other)
        total = max(len(annotations.references), len(texts))
        notes.append(f"partial: {len(texts):,} of {total:,} pictures scored")
    with _naming(options.annotations):
        references = References(texts, known=known)
    return _Job(texts=texts, references=references, captions=captions, other=other, notes=tuple(notes))


def _report(
    options: argparse.Namespace, job: _Job, frequencies: "DocumentFrequencies | None"
) -> tuple["Report", Mapping["Id", str]]:
    """The report, and the captions that it is of."""
    from captioner.commands.evaluation_report import Report
    from captioner.metrics.baselines import constant_scores, human_scores
    from captioner.metrics.description import describe
    from captioner.metrics.evaluate import evaluate
    from captioner.metrics.meteor import Measure, java_score
    from captioner.metrics.resampling import MINIMUM_PICTURES, bootstrap, compare

    references, captions = job.references, job.captions
    with _naming(options.results):
        scores = evaluate(captions, references, document_frequencies=frequencies)
    others = None
    if job.other is not None:
        with _naming(options.compare):
            others = evaluate(job.other, references, document_frequencies=frequencies)
    words = references.tokenize([captions[key] for key in job.texts])
    described = describe(words)
    notes = list(job.notes)
    if described.empty:
        first = next(key for key, caption in zip(job.texts, words, strict=True) if not caption)
        notes.append(f"{described.empty} captions have no words; the first is of picture {first!r}")
    enough = len(references) >= MINIMUM_PICTURES
    if options.bootstrap and not enough:
        notes.append(f"no intervals for fewer than {MINIMUM_PICTURES} pictures")
    measures: dict[Measure, bool] = {"METEOR": options.meteor, "SPICE": options.spice}
    extra = {measure: java_score(measure, captions, references) for measure, wanted in measures.items() if wanted}
    constant, human = None, None
    if not options.no_baselines:
        constant = constant_scores(job.texts, document_frequencies=frequencies, tokenized=references)
        human = human_scores(job.texts, document_frequencies=frequencies, tokenized=references)
    report = Report(
        scores=scores,
        signature=f"{scores.signature} | set {options.annotations.name}{f' {options.split}' if options.split else ''}",
        description=described,
        notes=tuple(notes),
        extra={measure: total for measure, (total, _) in extra.items()},
        extra_per_picture={measure: each for measure, (_, each) in extra.items()},
        intervals=bootstrap(scores, resamples=options.bootstrap, seed=options.seed)
        if options.bootstrap and enough
        else None,
        constant=constant,
        human=human,
        other=others,
        differences=compare(scores, others, seed=options.seed) if others is not None else None,
    )
    return report, captions


@contextmanager
def _naming(path: Path | None) -> Iterator[None]:
    """Add the name of a file to what is wrong with its content."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}" if path else str(error)) from None


def _common(
    references: Mapping["Id", list[str]], captions: Mapping["Id", str], other: Mapping["Id", str] | None
) -> tuple[dict["Id", list[str]], dict["Id", str], dict["Id", str] | None]:
    """The pictures that all sides have, for --partial."""
    ids = [key for key, group in references.items() if group and key in captions and (other is None or key in other)]
    if not ids:
        raise DataError("no picture has both a caption and references; check that both name pictures in the same way")
    kept = None if other is None else {key: other[key] for key in ids}
    return {key: references[key] for key in ids}, {key: captions[key] for key in ids}, kept


def _with_references(options: argparse.Namespace, annotations: "Annotations", known: "References") -> "Annotations":
    """The pictures whose captions can be scored, known before an hour of captioning: all, but for --partial.

    Raises DataError for references that cannot be scored.
    """
    from captioner.metrics.references import References

    texts = {key: group for key, group in annotations.references.items() if group or not options.partial}
    with _naming(options.annotations):
        References(texts, known=known)
    return replace(annotations, references=texts)


def _caption_pictures(options: argparse.Namespace, annotations: "Annotations") -> tuple[dict["Id", str], int]:
    from captioner.commands.evaluation_pictures import caption_files, find_files

    files, absent = find_files(options.images, annotations, partial=options.partial)
    refuse_overwriting(_outputs(options), (path for _, path in files))  # some may have no ending of a picture
    captions, broken = caption_files(files, load_model(options), beam=options.beam, rerank=options.rerank)
    if options.save_results is not None:
        content = [{"image_id": key, "caption": caption} for key, caption in captions.items()]
        write_whole(options.save_results, json.dumps(content))
    failures = absent + broken
    if failures and not options.partial:
        what = "1 picture" if failures == 1 else f"{failures} pictures"
        raise DataError(f"{what} could not be captioned; mend them, or score the others (--partial)")
    return captions, failures


def _objects(file: Path, annotations: "Annotations") -> tuple[frozenset[str], Mapping["Id", frozenset[str]]]:
    """The annotated classes, and those of each picture where all are annotated. Raises DataError if there is none."""
    from captioner.grounding.hallucination import fully_annotated
    from captioner.grounding.instances import Instances

    instances = Instances(file)
    names = {key: annotations.file_names.get(key, _coco_name(key)) for key in annotations.references}
    present = fully_annotated(instances, names)
    if not present:
        raise DataError(
            f"{file} has all classes of none of the {len(names):,} pictures of {annotations.source}",
            remedy="give the instances of these pictures; entries with 'instances': 'person' do not count",
        )
    return instances.classes, present


def _coco_name(key: "Id") -> str:
    return f"{key:012d}.jpg" if isinstance(key, int) else key


def _hallucination(
    options: argparse.Namespace, job: _Job, classes: frozenset[str], present: Mapping["Id", frozenset[str]]
) -> "Hallucination":
    """CHAIR of the scored captions. Raises DataError if no scored picture is fully annotated."""
    from captioner.grounding.hallucination import hallucination

    captions = {key: job.captions[key] for key in job.texts if key in present}
    if not captions:
        raise DataError(
            f"{options.hallucination}: all classes are annotated on none of the scored pictures",
            remedy="score pictures that it annotates",
        )
    resamples = options.bootstrap or 1000
    return hallucination(captions, job.texts, present, classes=classes, resamples=resamples, seed=options.seed)


def _show(options: argparse.Namespace, report: "Report", captions: Mapping["Id", str]) -> None:
    from captioner.commands.evaluation_report import per_picture, table

    if options.per_image is not None:
        write_whole(options.per_image, per_picture(report, captions))
    print(json.dumps(report.as_dict(), indent=1) if options.json else table(report), flush=True)
