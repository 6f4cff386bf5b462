"""Every attention mechanism on drawn scenes: does it point, does it caption, what does it cost?

    python benchmarks/family.py runs/family                       all of them, seconds to minutes each
    python benchmarks/family.py runs/family --only hard,local     some of them
    python benchmarks/family.py runs/family --map-supervision 0   maps that nobody showed where to lie

One small encoder is trained on scenes, once, and is frozen for all mechanisms, which are trained on its cached grids by
the same recipe, differing in the mechanism alone. Blocks between the encoder's stages and the temporal mechanism, whose
clips have one frame with a scene among empty ones, are trained with the rest of their own models. Everything is
measured on held-out scenes: pointing is the share of nouns whose map has its peak inside the noun's exact box, of
captions that are right; captions are right that equal the scene's, word for word. A step is one of training, 32
pictures, in milliseconds of processor time on one thread.

Rows whose model the folder holds are measured again but not trained. `--markdown` prints a table for the documentation.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from set_up import argument_parser, scene_recipe
from torch import Tensor

from captioner import checkpoint
from captioner.data.readers import read
from captioner.data.scenes import Scene, draw_scenes, write_scenes
from captioner.image import Geometry, fit
from captioner.model.caption_model import CaptionModel, ModelConfig
from captioner.model.grid import Grid
from captioner.model.lstm import LSTMConfig
from captioner.model.preprocess import normalise
from captioner.model.refiners import RefinerConfig
from captioner.options import Greedy
from captioner.pipeline import load
from captioner.tokenizer.vocabulary import END, PAD, START
from captioner.training.loop import Trainer
from captioner.training.losses import caption_loss, map_supervision
from captioner.training.recipe import Recipe

SIZE = (192, 144)
TRAIN, HELD_OUT, FIRST_HELD_OUT = 2400, 200, 1_000_000
DECODER = {"width": 192, "embedding": 96, "output_hidden": 192, "attention_width": 96, "dropout": 0.1}
REFINER = {"width": 128, "dropout": 0.0, "position": 0.5}
RATE = 3e-3
BATCH = 32


@dataclass(frozen=True)
class Row:
    """A mechanism: what of the recipe is its own."""

    name: str
    decoder: dict[str, Any] = field(default_factory=lambda: {"attention": "multihead", "heads": 4})
    refiner: str = "transformer_encoder"
    refiner_options: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)


def asks(name: str, heads: int = 1, **options: Any) -> Row:
    return Row(name, {"attention": name, "heads": heads, "attention_options": options})


def grid(name: str, **options: Any) -> Row:
    return Row(name, refiner=name, refiner_options=options)


ROWS = (
    asks("additive"),
    asks("dot"),
    asks("multihead", 4),
    asks("adaptive"),
    asks("hard"),
    asks("local"),
    asks("local_previous", window=6),
    asks("memory", 4, slots=8),
    asks("attention_on_attention", 4),
    asks("hierarchical", regions=4),
    asks("channel"),
    grid("latent_queries", queries=72, pooling_heads=4),
    grid("coarse_cells", regions=12),
    grid("cbam"),
    grid("relative_self_attention"),
    grid("selective_kernel"),
    grid("se"),
    grid("spatial"),
    grid("self_attention"),
    grid("eca"),
    Row("self-attention in the CNN", encoder={"attention": "relative_self_attention", "attention_after": [2]}),
)


@dataclass(frozen=True)
class Result:
    """What one row measured; shares from 0 to 1, milliseconds of a training step."""

    pointing: float
    correct: float
    parameters: int
    step: float


def recipe_of(row: Row, *, supervision: float, epochs: int, encoder_from: Path | None) -> Recipe:
    own = encoder_from is None
    return scene_recipe(
        decoder="lstm",
        decoder_options={**DECODER, **row.decoder},
        encoder_options=row.encoder,
        encoder_from="" if own else str(encoder_from),
        refiner=row.refiner,
        refiner_options={**REFINER, **row.refiner_options},
        epochs=epochs,
        frozen_epochs=0 if own else epochs,
        batch_pictures=BATCH,
        learning_rate=RATE,
        map_supervision=supervision,
        precision="float32",
    )


def train(folder: Path, row: Row, **options: Any) -> tuple[Path, float]:
    """The model of a row, and milliseconds of a step; those of the folder if it holds them."""
    recipe = recipe_of(row, **options)
    name = row.name.replace(" ", "-")
    run = folder / f"scenes-{name}-{recipe.epochs}-epochs-supervision-{recipe.map_supervision:g}"
    timed = run / "step.txt"
    if timed.exists():
        return run / "best.safetensors", float(timed.read_text())
    scenes = folder / "scenes"
    if not (scenes / "captions.jsonl").exists():
        write_scenes(scenes, count=TRAIN, dev=60, size=SIZE)
    steps, last = [], None
    run.mkdir(parents=True, exist_ok=True)
    for grids in folder.glob("*/grids-*.npy"):  # of the same frozen encoder: a run knows whether they are its own
        if not (run / grids.name).exists():
            os.link(grids, run / grids.name)
    with Trainer(recipe, read(scenes), run, device="cpu") as trainer:
        for progress in trainer.steps():
            now = time.process_time()  # which a busy machine does not lengthen
            if progress.what.startswith("epoch") and last is not None:
                steps.append(now - last)
            last = now if progress.what.startswith("epoch") else None
    if not steps:  # the run was at its end, but for the time, which its steps would have said
        return run / "best.safetensors", float("nan")
    timed.write_text(f"{1000 * float(np.median(steps)):.1f}")
    return run / "best.safetensors", float(timed.read_text())


def measure(path: Path, step: float, scenes: Sequence[Scene]) -> Result:
    model = load(path, backend="torch")
    captions = model.caption([scene.image for scene in scenes], options=Greedy())
    hits, correct = [], 0
    for caption, scene in zip(captions, scenes, strict=True):
        if str(caption) != scene.caption:
            continue
        correct += 1
        hits += [points_at(caption.maps[word], caption.geometry, box) for word, box in scene.things().items()]
    return Result(float(np.mean(hits)) if hits else 0.0, correct / len(scenes), parameters(model.model), step)


def points_at(map_: np.ndarray, geometry: Geometry, box: tuple[int, int, int, int]) -> bool:
    """Whether the middle of the map's highest cell lies in the box."""
    row, column = np.unravel_index(map_.argmax(), geometry.grid)
    x0, y0, x1, y1 = geometry.cell_box(int(row), int(column))
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def parameters(model: CaptionModel) -> int:
    """Of refiner and decoder, and of the attention inside the encoder."""
    inside = sum(p.numel() for name, p in model.encoder.named_parameters() if ".block." in name)
    return inside + sum(p.numel() for part in (model.refiner, model.decoder) for p in part.parameters())


FRAMES = 4


class Clips:
    """Clips of frames: at a random place one that shows a scene, and empty ones; encoded by a frozen encoder."""

    def __init__(self, model: CaptionModel, scenes: Sequence[Scene], *, seed: int) -> None:
        self.scenes = scenes
        random = np.random.default_rng(seed)
        self.shown = random.integers(0, FRAMES, len(scenes))
        side = model.encoder.config.side
        assert side is not None
        self.geometry = Geometry(size=SIZE, side=side, grid=model.encoder.grid_shape)
        self.features = encode(model, [fit(scene.image, self.geometry) for scene in scenes])  # (S, L, D)
        blank = [
            random.normal(random.uniform(60, 240, 3), 4, (side, side, 3)).clip(0, 255).astype(np.uint8)
            for _ in range(64)
        ]
        self.empty = encode(model, blank)

    def grid(self, chosen: Sequence[int], random: np.random.Generator) -> Grid:
        """The clips of some scenes, (B, frames * L, D)."""
        clips = []
        for i in chosen:
            frames = [self.empty[int(random.integers(len(self.empty)))] for _ in range(FRAMES)]
            frames[self.shown[i]] = self.features[i]
            clips.append(torch.cat(frames))
        return Grid(torch.stack(clips), self.geometry.grid, frames=FRAMES)

    def boxes(self, chosen: Sequence[int], steps: int) -> Tensor:
        """The share of each cell that a word's box covers, (B, T, frames * h, w)."""
        rows, columns = self.geometry.grid
        found = torch.zeros(len(chosen), steps, FRAMES, rows, columns)
        for b, i in enumerate(chosen):
            for word, (left, top, right, bottom) in self.scenes[i].things().items():
                for row in range(rows):
                    for column in range(columns):
                        x0, y0, x1, y1 = self.geometry.cell_box(row, column)
                        across, down = min(x1, right) - max(x0, left), min(y1, bottom) - max(y0, top)
                        if across > 0 and down > 0:
                            found[b, word, self.shown[i], row, column] = across * down / ((x1 - x0) * (y1 - y0))
        return found.flatten(2, 3)


@torch.no_grad()
def encode(model: CaptionModel, pixels: Sequence[np.ndarray]) -> Tensor:
    parts = [np.stack(pixels[first : first + 32]) for first in range(0, len(pixels), 32)]
    return torch.cat([model.encode_image(normalise(part, model.encoder.config)).features for part in parts])


def temporal(encoder: Path, scenes: Sequence[Scene], *, supervision: float, epochs: int) -> Result:
    """Train and measure the temporal mechanism on clips; a hit is in the frame that shows the thing, and in its box."""
    start = checkpoint.load(encoder)
    vocabulary = start.vocabulary
    config = ModelConfig(
        encoder=start.model.config.encoder,
        refiner=RefinerConfig(**REFINER),
        decoder=LSTMConfig(**DECODER, attention="temporal", heads=1),
    )
    torch.manual_seed(1)
    model = CaptionModel(config, vocabulary_size=len(vocabulary))
    model.encoder.load_state_dict(start.model.encoder.state_dict())
    learned = [*model.refiner.parameters(), *model.decoder.parameters()]
    clips = Clips(model, draw_scenes(TRAIN, size=SIZE), seed=1)
    random = np.random.default_rng(2)
    optimiser = torch.optim.AdamW(learned, lr=RATE, weight_decay=0.01)
    total = epochs * (TRAIN // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=total, pct_start=0.05)
    model.train()
    times = []
    for chosen in orders(random, epochs):
        before = time.process_time()
        rows = [[START, *vocabulary.encode(clips.scenes[i].words)[1:-1], END] for i in chosen]
        longest = max(map(len, rows))
        tokens = torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows])
        decoded = model.decoder(refined(model, clips.grid(chosen, random)), tokens[:, :-1])
        loss = caption_loss(decoded.logits, tokens[:, 1:])
        if supervision:
            boxes = clips.boxes(chosen, longest - 1)
            loss = loss + supervision * map_supervision(decoded.maps.flatten(2, 3), boxes)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        schedule.step()
        times.append(time.process_time() - before)
    return measure_clips(model.eval(), vocabulary, Clips(model, scenes, seed=3), 1000 * float(np.median(times)))


def refined(model: CaptionModel, clips: Grid) -> Grid:
    """Clips whose frames are each refined as a picture is, (B, frames * L, width)."""
    cells = clips.shape[0] * clips.shape[1]
    found = model.refiner(Grid(clips.features.reshape(-1, cells, clips.features.shape[-1]), clips.shape))
    joined = found.features.reshape(len(clips), clips.frames * cells, -1)
    return Grid(joined, clips.shape, frames=clips.frames)


def orders(random: np.random.Generator, epochs: int) -> Iterator[list[int]]:
    for _ in range(epochs):
        order = random.permutation(TRAIN).tolist()
        yield from (order[first : first + BATCH] for first in range(0, TRAIN - BATCH + 1, BATCH))


@torch.no_grad()
def measure_clips(model: CaptionModel, vocabulary: Any, clips: Clips, step_time: float) -> Result:
    chosen = list(range(len(clips.scenes)))
    state = model.decoder.begin(refined(model, clips.grid(chosen, np.random.default_rng(4))))
    token, tokens, maps = torch.full((len(chosen),), START), [], []
    for _ in range(16):
        step = model.decoder.step(token, state)
        token, state = step.logits[:, END:].argmax(-1) + END, step.state
        tokens.append(token)
        maps.append(step.map)  # (B, frames, h, w)
    hits, correct = [], 0
    for i, scene in enumerate(clips.scenes):
        ids = [int(one[i]) for one in tokens]
        words = vocabulary.decode(ids[: ids.index(END)] if END in ids else ids)
        if list(words) != list(scene.words):
            continue
        correct += 1
        for word, box in scene.things().items():
            map_ = maps[word][i].numpy()
            frame = int(map_.max((1, 2)).argmax())
            hits.append(frame == clips.shown[i] and points_at(map_[frame], clips.geometry, box))
    return Result(float(np.mean(hits)) if hits else 0.0, correct / len(chosen), parameters(model), step_time)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("folder", type=Path, help="for scenes and models")
    parser.add_argument("--only", default="", help="names of rows, joined by commas")
    parser.add_argument("--epochs", type=int, default=2, help="of each mechanism")
    parser.add_argument("--encoder-epochs", type=int, default=7)
    parser.add_argument("--map-supervision", type=float, default=0.3)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    known = [row.name for row in ROWS]
    known.insert(len(known) - 1, "temporal")
    wanted = [name for name in options.only.split(",") if name] or known
    if unknown := set(wanted) - set(known):
        parser.error(f"no row is called {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    shared = {"supervision": options.map_supervision, "epochs": options.epochs}
    encoder, _ = train(
        options.folder,
        Row("encoder"),
        encoder_from=None,
        supervision=options.map_supervision,
        epochs=options.encoder_epochs,
    )
    held_out = draw_scenes(HELD_OUT, first_seed=FIRST_HELD_OUT, size=SIZE)
    line = "| {:<26} | {:>8} | {:>8} | {:>10} | {:>7} |" if options.markdown else "{:<26}  {:>8}  {:>8}  {:>10}  {:>7}"
    print(line.format("mechanism", "pointing", "captions", "parameters", "ms/step"), flush=True)
    if options.markdown:
        print("|---|---|---|---|---|")
    for name in known:
        if name not in wanted:
            continue
        if name == "temporal":
            found = temporal(encoder, held_out, **shared)
        else:
            row = next(one for one in ROWS if one.name == name)
            own = None if row.encoder else encoder
            found = measure(*train(options.folder, row, encoder_from=own, **shared), held_out)
        print(
            line.format(
                name, f"{found.pointing:.1%}", f"{found.correct:.1%}", f"{found.parameters:,}", f"{found.step:.0f}"
            ),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
