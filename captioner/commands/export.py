"""The command ``captioner export``."""

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.console import report_left_out
from captioner.commands.files import check_new_output, find_weights, model_files, refuse_overwriting, report_old_graphs
from captioner.commands.ranges import check_positive
from captioner.errors import OptionError

if TYPE_CHECKING:
    from captioner.checkpoint import AnswerCheckpoint, Checkpoint
    from captioner.options import Beam

_ONNXRUNTIME_WEB = Path("node_modules/onnxruntime-web")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Write a model for others. To a .safetensors file: a release, whose decoding is chosen on dev and whose scores "
        "are measured on test. To a folder: ONNX graphs that need neither torch nor captioner. With --graphs: the ONNX "
        "graphs beside the model file, with which ONNX Runtime computes it, by default on CPUs. With --web: a folder "
        "with a page that captions in the browser."
    )
    parser.add_argument("model", metavar="MODEL", help="a model file, or a name that 'captioner models' lists")
    parser.add_argument("--output", type=Path, metavar="PATH", help="the .safetensors file, or the folder, to write")
    parser.add_argument("--graphs", action="store_true", help="write the ONNX graphs beside the model file")
    parser.add_argument("--web", type=Path, metavar="FOLDER", help="write a page that captions in the browser")
    parser.add_argument(
        "--onnxruntime-web",
        type=Path,
        metavar="FOLDER",
        help="of the npm package that the page needs (default: node_modules/onnxruntime-web)",
    )
    parser.add_argument(
        "--precision",
        metavar="NAME",
        help="of a folder: fp32 (default of --output), fp16 (default of --web) for half the size, or int8; of a "
        "release: int8, matrix products of the decoder in 8-bit integers",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="FOLDER",
        help="of photographs, such as training pictures: with --precision int8, convolutions are 8-bit integers too",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="captions of pictures, or questions about them, with the splits dev and test",
    )
    parser.add_argument("--images", type=Path, help="the folder of the pictures, where it is not beside --data")
    parser.add_argument("--name", help="the name of the data, for the file")
    parser.add_argument("--side", type=int, metavar="N", help="the size of the model's input from now on, in pixels")
    parser.add_argument(
        "--share-encoder",
        metavar="MODEL",
        help="of a release: leave out the encoder, which is that of this model file, and the refiner if it is the "
        "same; the two files stay together, in one folder or this one in the folder above",
    )
    parser.add_argument(
        "--decoding",
        metavar="JSON",
        help='decoding to use instead of choosing it, such as \'{"width": 3, "length_penalty": 0.8}\'',
    )
    parser.add_argument("--device", help="to score a release on: auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument("--threads", type=int, metavar="N", help="threads to compute with (default: all)")


def run(options: argparse.Namespace) -> int:
    """Write what is asked for: 0; 1 if pictures were left out. Raises CaptionerError."""
    if [options.graphs, options.output is not None, options.web is not None].count(True) != 1:
        raise OptionError("give one of --output, --graphs and --web", remedy="see captioner export --help")
    if options.onnxruntime_web is not None and options.web is None:
        raise OptionError(f"--onnxruntime-web {options.onnxruntime_web}: is for --web", remedy="leave it out")
    check_positive(options, "threads")
    to_file = options.output is not None and options.output.suffix == ".safetensors"
    if options.calibrate is not None and (options.precision != "int8" or options.output is None or to_file):
        raise OptionError(
            f"--calibrate {options.calibrate}: is for --output FOLDER --precision int8", remedy="leave it out"
        )
    if options.web is not None and options.precision == "int8":
        raise OptionError(
            "--precision int8 is for --output, and --web takes the integers of the model",
            remedy="write a model in integers first: --output FILE.safetensors --precision int8",
        )
    if to_file:
        if options.precision not in (None, "int8"):
            raise OptionError(
                f"--precision {options.precision}: a release has 16 bits, or with int8 the decoder's matrices 8",
                remedy="leave it out",
            )
        return _release(options)
    for name in ("data", "images", "name", "side", "share_encoder", "decoding", "device"):
        if getattr(options, name) is not None:
            raise OptionError(f"--{name.replace('_', '-')} is for a release", remedy="end --output in .safetensors")
    if options.graphs and options.precision is not None:
        raise OptionError(
            "--precision is for --output and --web: graphs beside a model file take its weights", remedy="leave it out"
        )
    return _to_onnx(options)


def _to_onnx(options: argparse.Namespace) -> int:
    from captioner.header import read_header

    file = find_weights(options.model, "export", answering=None)
    answers = bool(read_header(file)["answers"])
    if answers and options.web is not None:
        raise OptionError(
            f"{file}: answers questions, and the page of --web captions", remedy="export it with --output"
        )
    try:
        import torch

        from captioner.export.folder import export_folder
        from captioner.export.graphs import write_graphs
        from captioner.export.web.site import export_web
    except ModuleNotFoundError as error:
        if str(error.name).startswith("captioner"):
            raise
        raise OptionError(
            f"exporting needs {error.name}, which is not installed", remedy="pip install 'captioner[export]'"
        ) from None
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.graphs:
        from captioner.export.answers import write_answering_graphs

        found = write_answering_graphs(file) if answers else write_graphs(file)
    elif options.web is not None:
        package = options.onnxruntime_web or _ONNXRUNTIME_WEB
        found = export_web(file, options.web, onnxruntime_web=package, precision=options.precision or "fp16")
    else:
        from captioner.export.answering_folder import export_answering_folder

        write = export_answering_folder if answers else export_folder
        found = write(file, options.output, precision=options.precision or "fp32", calibrate=options.calibrate)
    print(json.dumps({"model": file.stem, "log_p_difference": found.log_p, "map_difference": found.maps}))
    return 0


def _release(options: argparse.Namespace) -> int:
    check_new_output("--output", options.output)
    if options.data is None:
        raise OptionError(
            "--data is missing",
            remedy="give captions of pictures, or questions about them, with the splits dev and test",
        )
    decoding = _decoding(options.decoding) if options.decoding is not None else None
    from captioner.header import read_header
    from captioner.shipped import find_model

    file = find_weights(options.model, "export", answering=None)
    refuse_overwriting({"--output": options.output}, [*model_files(file), options.data])
    shared = None if options.share_encoder is None else find_model(options.share_encoder)
    if shared is not None:
        refuse_overwriting({"--output": options.output}, model_files(shared))
    answers = bool(read_header(file)["answers"])
    if answers and options.decoding is not None:
        raise OptionError(f"--decoding is of captioning models, and {file} answers questions", remedy="leave it out")
    if answers and options.precision is not None:
        raise OptionError(
            f"--precision {options.precision} is of captioning models, and {file} answers questions",
            remedy="leave it out",
        )
    import torch

    from captioner import checkpoint
    from captioner.backends.torch import find_device
    from captioner.data.readers import read
    from captioner.data.records import usable

    device = find_device("auto" if options.device is None else options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    records = [record for record in read(options.data, images=options.images) if record.split in ("dev", "test")]
    refuse_overwriting({"--output": options.output}, (r.image for r in records if isinstance(r.image, Path)))
    records, faults = usable(records)
    report_left_out(faults, len(records) + len(faults))
    from captioner.training.export import as_stored, export

    ready: AnswerCheckpoint | Checkpoint
    if answers:
        from captioner.training.export_answers import export_answers

        answering = as_stored(checkpoint.load_answering(file), device=device)
        if shared is not None:
            checkpoint.shared_encoder(options.output, answering, shared)
        if options.side is not None:
            answering.model.set_side(options.side)
        ready = export_answers(answering, records, name=options.name or "")
    else:
        loaded = checkpoint.load(file)
        loaded.model.set_quantised(loaded.model.config.quantised or options.precision == "int8")
        model = as_stored(loaded, device=device)
        if shared is not None:
            checkpoint.shared_encoder(options.output, model, shared)
        if options.side is not None:
            model.model.set_side(options.side)
        if decoding is not None:
            _refuse_misfit(decoding, model)
        ready = export(model, records, name=options.name or "", decoding=decoding)
    checkpoint.save(options.output, ready, share_encoder=shared)
    report_old_graphs(options.output)
    print(json.dumps(ready.about.get("test") or ready.about["dev"]))
    return 1 if faults else 0


def _decoding(text: str) -> "Beam":
    """The options of a beam. Raises OptionError."""
    from captioner.metadata import can_store
    from captioner.options import Beam

    known = [field.name for field in fields(Beam)]
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not values.keys() <= set(known):
        raise OptionError(
            f"--decoding {text}: no JSON object of decoding options", remedy=f"there are {', '.join(known)}"
        )
    try:
        beam = Beam(**values)
    except TypeError as error:
        raise OptionError(f"--decoding {text}: {error}") from None
    except OptionError as error:  # whose remedy names options of other commands
        what = str(error).removesuffix(f"; {error.remedy}")
        raise OptionError(f"--decoding {text}: {what}", remedy="change these values") from None
    if not can_store(beam):
        raise OptionError(
            f"--decoding {text}: a model file holds no such wide beam, and no captions so long",
            remedy="ask for a width of at most 100, and a max_length of at most 200",
        )
    return beam


def _refuse_misfit(decoding: "Beam", model: "Checkpoint") -> None:
    """Make sure that the model can decode so, before pictures are captioned. Raises OptionError."""
    from captioner.constraints import Constraints

    if decoding.max_length > (most := model.model.decoder.max_length):
        raise OptionError(
            f"--decoding: max_length is {decoding.max_length}, and the model reads at most {most} words",
            remedy="ask for fewer",
        )
    Constraints.of(decoding, model.vocabulary)
