"""What all language models that see can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from diptych.config import IF_USED


@dataclass(frozen=True)
class GenerativeConfig:
    """What all language models that see can be told. Sizes count only for our own `vit` and `own`."""

    image: str = "vit"
    """image tower: vit, timm:NAME, hf:NAME_OR_PATH, open_clip:NAME/TAG or packaged:NAME"""
    image_size: int = 64
    """side of the square picture, in pixels"""
    image_width: int = 128
    """width of our own ViT"""
    image_layers: int = 3
    """layers of our own ViT"""
    image_heads: int = 4
    """attention heads of our own ViT"""
    patch: int = 8
    """side of a patch of our own ViT, in pixels"""
    positions: float = field(default=0.0, metadata=IF_USED)
    """standard deviation of the positions with which our own ViT begins; 0: its own, far below that of patches, so that
    one that does not train hardly says where a patch is"""
    crop: tuple[float, float] = (1.0, 1.0)
    """share of the picture that a training crop keeps, from and to; 1 1 takes the whole picture"""
    frames: int = 4
    """frames that are taken of a clip"""
    language: str = "own"
    """language model: own, hf:NAME_OR_PATH or packaged:smollm2"""
    width: int = 128
    """width of our own language model"""
    layers: int = 4
    """layers of our own language model"""
    heads: int = 4
    """attention heads of our own language model"""
    context: int = 256
    """longest sequence, in tokens, those of pictures included"""
    template: str = "plain"
    """how conversations are written: plain, vicuna, chatml, or own, the chat template of the language model"""
    moca: bool = False
    """whether visual tokens have a scale and a shift of their own in every layer (arXiv 2410.07167)"""
    tasks: tuple[str, ...] = ("pretrain",)
    """what is trained, one after the other: `text pretrain instruct`"""
    task_shares: tuple[float, ...] = ()
    """share of the run's samples that each of them gets; none: equal shares"""
    task_data: tuple[str, ...] = ()
    """name of the data set, of several, that each of them trains on, or `all`; none: all of them on all"""
    pack: int = 0
    """tokens of a row in which sequences lie side by side, at least those of the longest; 0: each is a padded row"""
    attention: str = "sdpa"
    """how the language model attends: sdpa, eager or flex_attention (CUDA; long rows then cost what is in them)"""
    start: str = ""
    """folder of a run or of a saved method, or file of an official checkpoint, whose weights it begins with"""
    train: tuple[str, ...] = ()
    """for each task a regular expression: parameters whose names match train in it; none: as the method says"""
    freeze: tuple[str, ...] = ()
    """regular expressions; parameters whose names match do not train"""
    lora_rank: int = 0
    """rank of low-rank updates of the language model, which train in its place but in the task text; 0: none"""
    lora_alpha: float = 16.0
    """weight of these updates, times `lora_rank`"""
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    """regular expressions; linear layers of the language model whose names match get such an update"""
    checkpointing: bool = False
    """keeps only what goes into each layer of the language model, and computes the rest again: memory for time"""
    remember: int = 0
    """megabytes in which features of a frozen encoder are kept, so that each picture is computed once; 0 keeps none"""
