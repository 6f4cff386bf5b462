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
    alphabet = [*sorted(set("".join(CORPUS)) - {" "}), "Ġ"]
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


@build("blip")
def _blip(folder: Path) -> None:
    tokenizer = word_pieces()
    text = {
        **SIZES, "vocab_size": len(tokenizer), "encoder_hidden_size": 16, "projection_dim": 16,
        "max_position_embeddings": 48, "bos_token_id": 4, "eos_token_id": 2, "pad_token_id": 0, "sep_token_id": 3,
    }  # fmt: skip
    vision = {**SIZES, "image_size": 32, "patch_size": 8, "projection_dim": 16}
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    processor = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    save(folder, spread(transformers.BlipForConditionalGeneration(config)), tokenizer, processor)


@build("git")
def _git(folder: Path) -> None:
    """Pictures keep their shape, and their middle is cut out."""
    tokenizer = word_pieces()
    vision = {**SIZES, "image_size": 32, "patch_size": 8}
    config = transformers.GitConfig(
        vision_config=vision, vocab_size=len(tokenizer), max_position_embeddings=48, bos_token_id=2, eos_token_id=3,
        pad_token_id=0, **SIZES,
    )  # fmt: skip
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_center_crop=True
    )
    save(folder, spread(transformers.GitForCausalLM(config)), tokenizer, processor)


def blip2(folder: Path, tokenizer: Any, text: Any) -> None:
    config = transformers.Blip2Config(
        vision_config={**SIZES, "image_size": 32, "patch_size": 8},
        qformer_config={**SIZES, "encoder_hidden_size": 16, "cross_attention_frequency": 1, "vocab_size": 8},
        text_config=text,
        num_query_tokens=4,
        image_token_index=2,
    )
    processor = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    model = transformers.Blip2ForConditionalGeneration(config)
    save(folder, spread(model, 0.2), tokenizer, processor)


@build("blip-2 opt")
def _blip2_opt(folder: Path) -> None:
    tokenizer = byte_level()
    text = transformers.OPTConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=24,
        word_embed_proj_dim=16, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    blip2(folder, tokenizer, text)


@build("blip-2 t5")
def _blip2_t5(folder: Path) -> None:
    tokenizer = byte_level()
    text = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=1,
        bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    blip2(folder, tokenizer, text)


@build("florence-2")
def _florence2(folder: Path, forced: int | None = None) -> None:
    """2 x 2 cells of 16 pixels."""
    tokenizer = byte_level()
    vision = {
        "depths": (1, 1), "patch_size": (7, 3), "patch_stride": (4, 4), "patch_padding": (3, 1),
        "patch_prenorm": (False, True), "embed_dim": (8, 16), "num_heads": (1, 2), "num_groups": (1, 2),
        "window_size": 4, "projection_dim": 16,
    }  # fmt: skip
    text = transformers.BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=64,
        bos_token_id=0, eos_token_id=0, pad_token_id=1, decoder_start_token_id=0, forced_eos_token_id=None,
        forced_bos_token_id=None,
    )  # fmt: skip
    config = transformers.Florence2Config(vision_config=vision, text_config=text, image_token_id=2)
    processor = transformers.CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    model = transformers.Florence2ForConditionalGeneration(config)
    model.generation_config.forced_bos_token_id = forced
    save(folder, spread(model), tokenizer, processor)


@build("florence-2 forced")
def _florence2_forced(folder: Path) -> None:
    """Begins each caption with the same piece, as those that were trained do."""
    _florence2(folder, forced=1)


def llama(tokenizer: Any) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=200, bos_token_id=0, eos_token_id=0,
        pad_token_id=1, **SIZES,
    )  # fmt: skip


@build("llava")
def _llava(folder: Path) -> None:
    """Pictures keep their shape on a square of their mean colour."""
    tokenizer = byte_level()
    vision = transformers.CLIPVisionConfig(image_size=32, patch_size=8, projection_dim=16, **SIZES)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=llama(tokenizer), image_token_index=2, image_seq_length=16
    )
    processor = transformers.LlavaImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_pad=True
    )
    save(folder, spread(transformers.LlavaForConditionalGeneration(config), 0.25), tokenizer, processor)


def qwen_vl(folder: Path, family: Any, model: Any, **vision: Any) -> None:
    """4 x 4 cells of 2 x 2 patches of 4 pixels."""
    tokenizer = byte_level()
    vision |= {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
    text = {
        **SIZES, "vocab_size": len(tokenizer), "num_key_value_heads": 2, "max_position_embeddings": 200,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1,
    }  # fmt: skip
    config = family(
        vision_config=vision, text_config=text, image_token_id=2, video_token_id=3, vision_start_token_id=4,
        vision_end_token_id=5,
    )  # fmt: skip
    processor = transformers.Qwen2VLImageProcessor(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 32 * 32}
    )
    save(folder, spread(model(config), 0.25), tokenizer, processor)


@build("qwen2-vl")
def _qwen2_vl(folder: Path) -> None:
    family, model = transformers.Qwen2VLConfig, transformers.Qwen2VLForConditionalGeneration
    qwen_vl(folder, family, model, embed_dim=16, hidden_size=16, mlp_ratio=2)


@build("qwen2.5-vl")
def _qwen2_5_vl(folder: Path) -> None:
    """The first layer attends within windows of 2 x 2 cells, the second everywhere."""
    family, model = transformers.Qwen2_5_VLConfig, transformers.Qwen2_5_VLForConditionalGeneration
    sizes = {"hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 24}
    qwen_vl(folder, family, model, window_size=16, fullatt_block_indexes=[1], **sizes)
