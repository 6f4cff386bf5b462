"""Tiny random models of every family in the form of transformers, written to folders; nothing is downloaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from captioner.model.vision import import_torchvision

import_torchvision()  # before the first image processor

CORPUS = ["a dog catches a red ball in the park", "a cat's blue frisbee", "two dogs, one ball.", "the dog sits"] * 3
VOCABULARY = 90
BUILDERS: dict[str, Callable[[Path], None]] = {}
SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def build(name: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def add(builder: Callable[[Path], None]) -> Callable[[Path], None]:
        BUILDERS[name] = builder
        return builder

    return add


def write(name: str, folder: Path) -> None:
    """Write the model of a family, the same at each call."""
    torch.manual_seed(11)
    BUILDERS[name](folder)


def byte_level() -> transformers.PreTrainedTokenizerFast:
    """Like GPT-2's: a space belongs to the piece after it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<pad>", "<image>"]
    alphabet = sorted(set("".join(CORPUS)) - {" "}) + ["Ġ"]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|end|>",
        eos_token="<|end|>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )


def word_pieces() -> transformers.PreTrainedTokenizerFast:
    """Like BERT's: a piece that goes on with a word begins with ##."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]"]
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        bos_token="[DEC]",
    )


def vit(size: int | tuple[int, int] = 32) -> transformers.ViTConfig:
    return transformers.ViTConfig(image_size=size, patch_size=8, **SIZES)


def save(folder: Path, model: Any, *parts: Any) -> None:
    for part in (model, *parts):
        part.save_pretrained(folder)


def spread(model: Any, by: float = 0.35) -> Any:
    """Weights that are large enough for captions and maps to differ between pictures."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, by)
    return model.eval()


def gpt2(tokenizer: Any) -> transformers.GPT2Config:
    return transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=48,
        n_embd=16,
        n_layer=2,
        n_head=2,
        add_cross_attention=True,
        bos_token_id=0,
        eos_token_id=0,
    )


def vision_encoder_decoder(folder: Path, encoder: Any, processor: Any) -> None:
    tokenizer = byte_level()
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, gpt2(tokenizer))
    model = spread(transformers.VisionEncoderDecoderModel(config))
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = 0
    model.config.pad_token_id = model.generation_config.pad_token_id = 1
    model.generation_config.eos_token_id = 0
    save(folder, model, tokenizer, processor)


@build("vit-gpt2")
def _vit_gpt2(folder: Path) -> None:
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    vision_encoder_decoder(folder, vit(), processor)


@build("vit-gpt2 wide")
def _vit_gpt2_wide(folder: Path) -> None:
    """3 x 6 cells."""
    processor = transformers.ViTImageProcessor(size={"height": 24, "width": 48})
    vision_encoder_decoder(folder, vit((24, 48)), processor)


@build("swin-gpt2")
def _swin_gpt2(folder: Path) -> None:
    """No class token, and a grid that is halved once: 4 x 4 cells of 8 pixels."""
    encoder = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
    )
    vision_encoder_decoder(folder, encoder, transformers.ViTImageProcessor(size={"height": 32, "width": 32}))
