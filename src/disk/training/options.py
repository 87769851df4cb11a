"""The options of training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from disk.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `disk train`. A batch is some tuples of images; an epoch is a number of batches."""

    save_dir: Path = Path("artifacts")
    """folder for checkpoints (save-EPOCH.pth, last.pth) and logs (log.jsonl, TensorBoard)"""

    reward: Literal["depth", "epipolar"] = "depth"
    """what makes a match right; images without depth use the epipolar reward in any case"""

    original_reward: bool = False
    """do not test rewards for occlusion and for points behind a camera, as the original"""

    reward_threshold: float = 1.5
    """a match is right within this many pixels; less makes keypoints more precise"""

    synthesize: Path | None = None
    """folder of photographs to render scenes from while training, instead of or beside DATA"""

    synthetic_share: float = 0.5
    """with both DATA and --synthesize: share of the batches that are rendered"""

    views: int = 3
    """images in a rendered tuple"""

    height: int = 768
    """height of the training images in pixels, a multiple of 16"""

    width: int = 768
    """width of the training images in pixels, a multiple of 16"""

    batch_size: int = 2
    """tuples in a batch (of each process)"""

    substep: int = 1
    """batches to a step of the optimiser: gradients are summed over them"""

    chunk_size: int = 5000
    """batches in an epoch"""

    warmup: int = 250
    """batches in epoch 0, which has no penalties"""

    n_epochs: int = 50
    """epochs to train"""

    epoch_offset: int = 0
    """number of the first epoch, for the schedule; with --load, to fine-tune"""

    train_scene_limit: int = 1000
    """most tuples of a scene in one pass over the training data, drawn anew each pass"""

    test_scene_limit: int = 250
    """most tuples of a test scene (or rendered tuples, without DATA) to validate on; 0: no validation"""

    schedule: Schedule = "default"
    """weights over the epochs: the authors' script, or their paper (with fine-tuning from epoch 50 on)"""

    keypoint_penalty: float = 0.001
    """what a keypoint costs once penalties are full, where a right match earns 1: more gives fewer, better ones"""

    keypoint_share: float = 0.0
    """share of the 8x8 cells of an image that may have a keypoint free of charge; beyond it keypoints cost up to their
    mean reward, so that they compete. 0: no such price, nearly every cell comes to have one"""

    lr: float = 1e-4
    """learning rate of Adam"""

    average: float = 0.0
    """decay of the moving average of the weights that is validated and saved; 0: the weights as they are"""

    desc_dim: int = 128
    """length of a descriptor"""

    augment: bool = False
    """change brightness, contrast, gamma and colour, add noise, blur, shadows and JPEG, for each image on its own"""

    load: str | None = None
    """checkpoint (a path or the name of shipped weights) to start from"""

    resume: bool = False
    """go on from last.pth in the save dir, if it is there, exactly where it stopped"""

    time_limit: float | None = None
    """minutes after which to save and stop; go on with --resume"""

    seed: int = 0
    """the same seed gives the same training"""

    precision: Literal["fp32", "bf16"] = "fp32"
    """of the network; matching, rewards and weights are always fp32"""

    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU where there is one"""

    workers: int = 4
    """processes that read DATA, 0 for none"""

    compile: bool = False
    """compile the network with torch.compile: a slow start, then often faster on a GPU"""
