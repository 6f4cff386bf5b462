"""What the tests share: tiny models in files, small pictures, the folder of real photographs, and a browser."""

import fcntl
import gc
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

from captioner import checkpoint
from captioner.data.readers import read
from captioner.data.records import Record
from captioner.data.scenes import write_scenes
from captioner.geometry import Geometry, fit
from captioner.image import open_image
from captioner.model.answer_model import AnswerConfig, AnswerModel
from captioner.model.answering import HierarchicalConfig
from captioner.model.backbones import BACKBONES
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.encoder import EncoderConfig
from captioner.model.lstm import LSTMConfig
from captioner.model.refiners import RefinerConfig
from captioner.model.reranker import FARTHEST, STEPS, RerankerConfig
from captioner.model.transformer import TransformerConfig
from captioner.tokenizer.vocabulary import SPECIAL, Vocabulary

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from captioner.pipeline import Captioner

hypothesis.settings.register_profile("tests", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("tests")
torch.set_num_threads(1)  # the models of the tests are so small that threads only wait for one another


_LONG = ("bulk/test_run.py", "export/test_mechanisms.py", "training/test_processes.py", "serve/test_process.py")
_LONG += ("training/test_kill.py", "export/test_answers.py", "export/test_graphs.py", "training/test_training.py")
_LONG += ("training/test_runs.py", "serve/test_browser.py", "serve/test_bounds.py")  # ten seconds and more


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without garbage collection, a quarter of the time, and leave what is there out of all later.

    Of that there is less, too: as often as Python does it, it takes a fifteenth of the time of the tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that of several test processes none works alone at the end.

    The very first trains `scenes_model`; other files that use it come after the long ones, so that none waits for it.
    """
    long = {item.path for item in items if item.get_closest_marker("slow")}
    long |= {item.path for item in items if item.path.as_posix().endswith(_LONG)}
    trained = {item.path for item in items if "scenes_model" in getattr(item, "fixturenames", ())}

    def rank(item: pytest.Item) -> int:
        if item.path in trained:
            return 0 if item.path.name == "test_scenes_end_to_end.py" else 2
        return 1 if item.path in long else 3

    items.sort(key=rank)


WORDS = ("a", "dog", "cat", "ball", "red", "blue", "in", "the", "park", "'s", "$5", "<&>")

DECODERS = {
    "lstm": LSTMConfig(width=32, embedding=16, output_hidden=24, attention="additive", attention_width=16, heads=1),
    "transformer": TransformerConfig(width=32, layers=2, heads=2, hidden=32, max_length=32),
}


@pytest.fixture(scope="session", autouse=True)
def _float32() -> Iterator[None]:
    """Training by default in the same precision on every machine; what runs in a process of its own says so itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captioner.training.precision.has_bfloat16", lambda device: False)
        yield


def tiny_checkpoint(decoder: str, *, pad: bool = False) -> checkpoint.Checkpoint:
    """An untrained model of a few kilobytes, the same at each call: 8 x 8 cells on 64 x 64 pixels."""
    torch.manual_seed(4)
    config = ModelConfig(
        encoder=EncoderConfig(backbone="tiny", side=64, pad=pad),
        refiner=RefinerConfig(width=16, heads=2),
        decoder=DECODERS[decoder],
    )
    vocabulary = Vocabulary(SPECIAL + WORDS)
    model = CaptionModel(config, vocabulary_size=len(vocabulary)).eval()
    about = {"decoding": {"width": 2, "max_length": 6, "min_length": 3}, "note": "untrained"}
    return checkpoint.Checkpoint(model=model, vocabulary=vocabulary, about=about)


def give_reranker(model: checkpoint.Checkpoint) -> checkpoint.Checkpoint:
    """The model with a reranker of random numbers, which prefers captions with a word that the beam puts behind."""
    model.model.set_reranker(RerankerConfig(ngrams=(20, 20), dims=3, centres=(12, 12)))
    reranker = model.model.reranker
    assert reranker is not None
    usual, other = (model.vocabulary.ids[word] for word in ("a", "$5"))
    known = sorted(
        [(usual,), (other,), (other, other), *((usual, i) for i in range(4, 12)), *((i,) * 4 for i in range(6, 15))]
    )
    torch.manual_seed(2)
    reranker.set_weights.normal_()
    reranker.match_gains.uniform_(0, 0.1)
    reranker.ngram_costs.uniform_(0, 0.1)
    for one in reranker.regressions():
        one.ngrams.copy_(torch.tensor(reranker.keys_of(known)))
        one.idf.uniform_(1, 3)
        one.centres.copy_(torch.randint(-50, 50, one.centres.shape))
        one.squares.copy_((one.centres.float() * (FARTHEST / STEPS)).square().sum(0))
        one.radius.fill_(12.0)
        one.weights.normal_().mul_(0.1)
        one.intercept.normal_().mul_(0.1)
        one.length_weights.normal_().mul_(0.01)
        one.directions.copy_(torch.randint(-127, 127, one.directions.shape))
        one.scales.fill_(0.001)
        one.common[known.index((other,))] = 5.0
    return model


@pytest.fixture
def with_reranker() -> checkpoint.Checkpoint:
    """A tiny untrained model with a reranker."""
    return give_reranker(tiny_checkpoint("lstm"))


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., checkpoint.Checkpoint]:
    """`tiny_checkpoint`, for tests that need the model itself."""
    return tiny_checkpoint


@pytest.fixture(scope="session", params=["lstm", "transformer"])
def either_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a tiny untrained model, once with each decoder."""
    path: Path = tmp_path_factory.mktemp("models") / f"tiny-{request.param}.safetensors"
    checkpoint.save(path, tiny_checkpoint(request.param))
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a tiny untrained model, for tests to which the decoder makes no difference."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    checkpoint.save(path, tiny_checkpoint("lstm"))
    return path


QUESTION_WORDS = ("what", "is", "the", "dog", "cat", "doing", "color", "how", "many")
DOG, CAT = (len(SPECIAL) + QUESTION_WORDS.index(word) for word in ("dog", "cat"))
ANSWERS = ("yes", "no", "dog", "two", "red ball")


def tiny_answering(*, pad: bool = False) -> checkpoint.AnswerCheckpoint:
    """An untrained answering model of a few kilobytes, the same at each call: 8 x 8 cells on 64 x 64 pixels."""
    torch.manual_seed(5)
    config = AnswerConfig(
        encoder=EncoderConfig(backbone="tiny", side=64, pad=pad),
        refiner=RefinerConfig(width=16, heads=2),
        answerer=HierarchicalConfig(
            embedding=8,
            width=16,
            heads=2,
            hidden=12,
            max_length=12,
            attributes=(DOG, CAT),
            attribute_map=0.25,
            attribute_answers=(ANSWERS.index("dog"), -1),
        ),
    )
    vocabulary = Vocabulary(SPECIAL + QUESTION_WORDS)
    model = AnswerModel(config, vocabulary_size=len(vocabulary), answers=len(ANSWERS)).eval()
    return checkpoint.AnswerCheckpoint(model=model, vocabulary=vocabulary, answers=ANSWERS, about={"note": "untrained"})


@pytest.fixture(scope="session")
def make_answering() -> Callable[..., checkpoint.AnswerCheckpoint]:
    """`tiny_answering`, for tests that need the model itself."""
    return tiny_answering


@pytest.fixture(scope="session")
def tiny_answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a tiny untrained answering model."""
    path = tmp_path_factory.mktemp("answering") / "tiny-answers.safetensors"
    checkpoint.save(path, tiny_answering())
    return path


@pytest.fixture(scope="session")
def for_all_processes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Make a folder once for all test processes: what is made, and a function that fills the folder."""
    own = tmp_path_factory.getbasetemp()
    base = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder = base / name
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                partial = base / f"{name}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                fill(partial)
                partial.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def exported(for_all_processes: Callable[[str, Callable[[Path], object]], Path]) -> Callable[[str], Path]:
    """The file of a tiny model with graphs: "lstm-padded", "transformer-padded", "lstm-reranker" or "lstm-quantised".

    Tracing is slow, so that each is traced once, and few are asked for. Whatever is exported of such a file takes the
    graphs that are there.
    """

    def make(kind: str) -> Path:
        def fill(folder: Path) -> None:
            from captioner.export.graphs import write_graphs

            decoder, _, more = kind.partition("-")
            model = tiny_checkpoint(decoder, pad=more == "padded")
            model.model.set_quantised(more == "quantised")
            checkpoint.save(folder / f"{kind}.safetensors", give_reranker(model) if more == "reranker" else model)
            write_graphs(folder / f"{kind}.safetensors")

        return for_all_processes(f"exported-{kind}", fill) / f"{kind}.safetensors"

    return make


@pytest.fixture(scope="session")
def quick_model(exported: Callable[[str], Path]) -> Path:
    """The file of a tiny model with graphs, for programs of their own: they start without torch."""
    return exported("lstm-padded")


SCENES_RECIPES: dict[str, dict[str, Any]] = {
    "transformer": {
        "decoder_options": {"width": 128, "layers": 2, "heads": 4, "hidden": 256, "dropout": 0.1},
        "epochs": 4,
        "batch_pictures": 16,
        "learning_rate": 2e-3,
    },
    "lstm": {
        "decoder_options": {
            "width": 192, "embedding": 96, "output_hidden": 192, "attention_width": 96, "heads": 4, "dropout": 0.1,
        },
        "epochs": 4,
        "batch_pictures": 32,
        "learning_rate": 3e-3,
    },
}  # fmt: skip


def _fit_in_place(record: Record) -> None:
    """Put what the encoder sees in the place of the picture: every pass over it has the same pixels sooner."""
    assert isinstance(record.image, Path)
    image = open_image(record.image)
    geometry = Geometry(size=image.size, side=BACKBONES["tiny"].side, grid=(1, 1))
    Image.fromarray(fit(image, geometry)).save(record.image)


@pytest.fixture(scope="session")
def scenes_model(
    tmp_path_factory: pytest.TempPathFactory, for_all_processes: Callable[[str, Callable[[Path], object]], Path]
) -> Callable[[str], Path]:
    """Train a model with this decoder on drawn scenes of 192 x 144, a minute or so; once for all test processes.

    The encoder is trained with the Transformer; the LSTM reads the grids of that encoder. Nothing is asked of it but
    the path of its file; whoever calls it is a slow test.
    """

    @cache
    def scenes() -> list[Record]:
        folder = tmp_path_factory.mktemp("scenes")
        records = read(write_scenes(folder, count=2400, dev=60, size=(192, 144), suffix=".bmp"))
        for record in records:
            _fit_in_place(record)
        return records

    def train_once(decoder: str) -> Path:
        name = f"scenes-{decoder}.safetensors"
        return (
            for_all_processes(f"scenes-{decoder}", lambda folder: shutil.copyfile(train(decoder), folder / name)) / name
        )

    def train(decoder: str) -> Path:
        from captioner.training.loop import Trainer
        from captioner.training.recipe import Recipe

        own = decoder == "transformer"
        options = SCENES_RECIPES[decoder]
        recipe = Recipe(
            decoder=decoder,
            backbone="tiny",
            refiner_options={"width": 128, "dropout": 0.0, "position": 0.5},
            encoder_from="" if own else str(train_once("transformer")),
            frozen_epochs=0 if own else options["epochs"],
            captions_per_picture=1,
            minimum_count=1,
            encoder_learning_rate=options["learning_rate"],
            warmup_steps=50,
            label_smoothing=0.0,
            map_supervision=1.0,
            ema_decay=0.98,
            horizontal_flip=False,
            **options,
        )
        return Trainer(recipe, scenes(), tmp_path_factory.mktemp("run"), device="cpu").run()

    return train_once


@pytest.fixture
def make_picture(tmp_path: Path) -> Callable[..., Path]:
    """Write a picture of noise into the test's folder; its format by its ending."""

    def make(name: str = "photo.png", *, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return make


@pytest.fixture(scope="session")
def stored_wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables for pip: wheels are built without compression, which takes seconds and makes models hardly smaller."""
    path = tmp_path_factory.mktemp("setuptools") / "extra.cfg"
    path.write_text("[bdist_wheel]\ncompression = stored\n")
    return {"DIST_EXTRA_CONFIG": str(path)}


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of photographs and captions beside the checkout."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the photographs and captions of ../shared, which are not here")
    return folder


_CHROMIUM = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_CHROMIUM_OPTIONS = (
    "--no-sandbox",  # as root, for instance in a container, it does not start otherwise
    "--disable-gpu",
    "--in-process-gpu",  # without one, its process only costs time; nor need pages be kept from one another
    "--disable-site-isolation-trials",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Chromium without a window, as the system has it installed; make a context and a page of it for each test.

    While it is open, `asyncio.run` does not work in the thread of the tests: a server runs in one of its own.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is not installed")
    program = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    if program is None:
        pytest.skip(f"needs a browser, and none of {', '.join(_CHROMIUM)} is installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=list(_CHROMIUM_OPTIONS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def foreign(for_all_processes: Callable[[str, Callable[[Path], object]], Path]) -> Callable[[str], "Captioner"]:
    """Tiny random models in the form of transformers, by the names of `tests.foreign_models.BUILDERS`."""
    pytest.importorskip("transformers", reason="needs transformers, which is not installed")
    from captioner.pipeline import load
    from tests import foreign_models

    @cache
    def opened(name: str) -> "Captioner":
        folder = for_all_processes(f"foreign {name}", lambda target: foreign_models.write(name, target))
        return load(folder, device="cpu")

    return opened
