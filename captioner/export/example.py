"""Caption a picture with this folder, or ask about one if its model answers questions.

python example.py photo.jpg
python example.py photo.jpg "what is the dog catching?"

It needs numpy, pillow and onnxruntime.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

PAD, START, END, UNKNOWN = range(4)
HERE = Path(__file__).resolve().parent


def prepare(path: str, config: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """A picture as the encoder takes it: (1, side, side, 3), and which cells of the grid hold picture."""
    side, (rows, columns) = config["preprocessing"]["side"], config["grid"]
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I;16"):  # 16 bits of grey
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().astype(np.uint8))
    if image.has_transparency_data:  # lies on white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    width = height = side
    if config["preprocessing"]["pad"]:
        factor = side / max(image.size)
        width, height = (max(1, round(length * factor)) for length in image.size)
    pixels = np.full((1, side, side, 3), 128, dtype=np.uint8)
    pixels[0, :height, :width] = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    down, across = np.arange(rows) * side < rows * height, np.arange(columns) * side < columns * width
    return pixels, (down[:, None] & across[None])[None]


def caption(path: str) -> tuple[list[str], list[np.ndarray]]:
    """The likeliest word at each step (greedy), and the map of each, (h, w)."""
    config = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    encode, step = (onnxruntime.InferenceSession(HERE / f"{name}.onnx") for name in ("encode", "step"))
    pixels, mask = prepare(path, config)
    feed = {"pixels": pixels, "mask": mask}
    state = encode.run(None, {one.name: feed[one.name] for one in encode.get_inputs()})
    names = [one.name for one in encode.get_outputs()]
    # Rows of the state are (pictures, captions of each, ...) on the way in; here one of each.
    rows = [leaf["axis"] == "row" for leaf in config["state"]]
    state = {name: x[None] if row else x for name, x, row in zip(names, state, rows, strict=True)}
    taken = {one.name for one in step.get_inputs()}
    outputs = [one.name for one in step.get_outputs()]
    word = START
    words: list[str] = []
    maps: list[np.ndarray] = []
    while True:
        feed = {"tokens": np.array([[word]]), **state}
        results = step.run(None, {name: x for name, x in feed.items() if name in taken})
        found = dict(zip(outputs, results, strict=True))
        maps.append(found["map"][0])
        word = int(found["log_p"][0].argmax())
        if word == END or len(words) == config["decoding"]["max_length"]:
            break
        words.append(config["vocabulary"][word])
        for name, value in found.items():
            if name.startswith("next_"):
                state[name.removeprefix("next_")] = value[None]
    delay = config["about"].get("maps", {}).get("attention", {}).get("delay", 0)  # 1: the map once the word is chosen
    return words, maps[delay : len(words) + delay]


def ask(path: str, question: str) -> tuple[str, float, np.ndarray, dict[str, float]]:
    """The likeliest answer and its probability, the map (h, w), and the weight of each word of the question."""
    config = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
    encode, answer = (onnxruntime.InferenceSession(HERE / f"{name}.onnx") for name in ("encode", "answer"))
    pixels, mask = prepare(path, config)
    feed = {"pixels": pixels, "mask": mask}
    (grid,) = encode.run(None, {one.name: feed[one.name] for one in encode.get_inputs()})
    words = re.findall("[a-z]+|[0-9]+", question.lower())
    ids = {word: i for i, word in enumerate(config["vocabulary"])}
    tokens = np.array([[[ids.get(word, UNKNOWN) for word in words]]])
    feed = {"grid": grid, "tokens": tokens, "mask": mask.reshape(1, -1)}
    results = answer.run(["log_p", "map", "words"], {one.name: feed[one.name] for one in answer.get_inputs()})
    log_p, where, weights = (one[0, 0] for one in results)
    best = int(log_p.argmax())
    read = dict(zip(words, weights.tolist(), strict=True))
    return config["answers"][best], float(np.exp(log_p[best])), where, read


def most(place: np.ndarray) -> str:
    """Where a map is highest."""
    row, column = np.unravel_index(place.argmax(), place.shape)
    return f"looked most at row {row}, column {column} of {place.shape[0]} x {place.shape[1]} cells"


if __name__ == "__main__":
    answers = (HERE / "answer.onnx").exists()
    if len(sys.argv) != 2 + answers:
        sys.exit(f"usage: python {sys.argv[0]} PICTURE{' QUESTION' if answers else ''}")
    if not Path(sys.argv[1]).is_file():
        sys.exit(f"{sys.argv[1]}: no such file")
    if answers:
        answer, probability, place, read = ask(sys.argv[1], sys.argv[2])
        print(answer)
        print(f"{probability:.2f}; {most(place)}")
        print("  ".join(f"{word} {weight:.2f}" for word, weight in read.items()))
    else:
        words, maps = caption(sys.argv[1])
        print(" ".join(words))
        for word, place in zip(words, maps, strict=True):
            print(f"{word:12} {most(place)}")
