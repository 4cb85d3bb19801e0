"""Files in the form of the published implementation, with the values of its RT-DETRv2-R50 and R18 configurations."""

from pathlib import Path

RUNTIME = """
print_freq: 100
output_dir: './logs'
checkpoint_freq: 1
sync_bn: True
find_unused_parameters: False
use_amp: False
scaler:
  type: GradScaler
  enabled: True
use_ema: False
ema:
  type: ModelEMA
  decay: 0.9999
  warmups: 2000
"""
DATA = """
task: detection
evaluator: {type: CocoEvaluator, iou_types: ['bbox', ]}
num_classes: 80
remap_mscoco_category: True
train_dataloader:
  type: DataLoader
  dataset:
    type: CocoDetection
    img_folder: ./dataset/coco/train2017/
    ann_file: ./dataset/coco/annotations/instances_train2017.json
    return_masks: False
    transforms: {type: Compose, ops: ~}
  shuffle: True
  num_workers: 4
  drop_last: True
  collate_fn: {type: BatchImageCollateFunction}
val_dataloader:
  type: DataLoader
  dataset:
    type: CocoDetection
    img_folder: ./dataset/coco/val2017/
    ann_file: ./dataset/coco/annotations/instances_val2017.json
    return_masks: False
    transforms: {type: Compose, ops: ~}
  shuffle: False
  num_workers: 4
  drop_last: False
  collate_fn: {type: BatchImageCollateFunction}
"""
LOADER = """
train_dataloader:
  dataset:
    transforms:
      ops:
        - {type: RandomPhotometricDistort, p: 0.5}
        - {type: RandomZoomOut, fill: 0}
        - {type: RandomIoUCrop, p: 0.8}
        - {type: SanitizeBoundingBoxes, min_size: 1}
        - {type: RandomHorizontalFlip}
        - {type: Resize, size: [640, 640], }
        - {type: SanitizeBoundingBoxes, min_size: 1}
        - {type: ConvertPILImage, dtype: 'float32', scale: True}
        - {type: ConvertBoxes, fmt: 'cxcywh', normalize: True}
      policy:
        name: stop_epoch
        epoch: 71
        ops: ['RandomPhotometricDistort', 'RandomZoomOut', 'RandomIoUCrop']
  collate_fn:
    type: BatchImageCollateFunction
    scales: [480, 512, 544, 576, 608, 640, 640, 640, 672, 704, 736, 768, 800]
    stop_epoch: 71
  shuffle: True
  total_batch_size: 16
  num_workers: 4
val_dataloader:
  dataset:
    transforms:
      ops:
        - {type: Resize, size: [640, 640]}
        - {type: ConvertPILImage, dtype: 'float32', scale: True}
  shuffle: False
  total_batch_size: 32
  num_workers: 4
"""
OPTIMIZER = """
use_amp: True
use_ema: True
epoches: 72
clip_max_norm: 0.1
optimizer:
  type: AdamW
  params:
    - params: '^(?=.*backbone)(?!.*norm).*$'
      lr: 0.00001
    - params: '^(?=.*(?:encoder|decoder))(?=.*(?:norm|bn)).*$'
      weight_decay: 0.
  lr: 0.0001
  betas: [0.9, 0.999]
  weight_decay: 0.0001
lr_scheduler: {type: MultiStepLR, milestones: [1000], gamma: 0.1}
lr_warmup_scheduler: {type: LinearWarmup, warmup_duration: 2000}
"""
MODEL = """
model: RTDETR
criterion: RTDETRCriterionv2
postprocessor: RTDETRPostProcessor
use_focal_loss: True
eval_spatial_size: [640, 640] # h w
RTDETR: {backbone: PResNet, encoder: HybridEncoder, decoder: RTDETRTransformerv2}
PResNet:
  {depth: 50, variant: d, freeze_at: 0, return_idx: [1, 2, 3], num_stages: 4, freeze_norm: True, pretrained: True}
HybridEncoder:
  in_channels: [512, 1024, 2048]
  feat_strides: [8, 16, 32]
  hidden_dim: 256
  use_encoder_idx: [2]
  num_encoder_layers: 1
  nhead: 8
  dim_feedforward: 1024
  dropout: 0.
  enc_act: 'gelu'
  expansion: 1.0
  depth_mult: 1
  act: 'silu'
RTDETRTransformerv2:
  feat_channels: [256, 256, 256]
  feat_strides: [8, 16, 32]
  hidden_dim: 256
  num_levels: 3
  num_layers: 6
  num_queries: 300
  num_denoising: 100
  label_noise_ratio: 0.5
  box_noise_scale: 1.0
  eval_idx: -1
  num_points: [4, 4, 4]
  cross_attn_method: default
  query_select_method: default
RTDETRPostProcessor: {num_top_queries: 300}
RTDETRCriterionv2:
  weight_dict: {loss_vfl: 1, loss_bbox: 5, loss_giou: 2,}
  losses: ['vfl', 'boxes', ]
  alpha: 0.75
  gamma: 2.0
  matcher:
    type: HungarianMatcher
    weight_dict: {cost_class: 2, cost_bbox: 5, cost_giou: 2}
    alpha: 0.25
    gamma: 2.0
"""
R50 = """
__include__: ['../dataset/coco.yml', '../runtime.yml', './include/loader.yml', './include/optimizer.yml',
              './include/r50vd.yml']
output_dir: ./output/rtdetrv2_r50vd_6x_coco
"""
R18 = """
__include__: ['../dataset/coco.yml', '../runtime.yml', './include/loader.yml', './include/optimizer.yml',
              './include/r50vd.yml']
output_dir: ./output/rtdetrv2_r18vd_120e_coco
PResNet: {depth: 18, freeze_at: -1, freeze_norm: False, pretrained: True}
HybridEncoder: {in_channels: [128, 256, 512], hidden_dim: 256, expansion: 0.5}
RTDETRTransformerv2: {num_layers: 3}
epoches: 120
optimizer:
  type: AdamW
  params:
    - params: '^(?=.*(?:norm|bn)).*$'
      weight_decay: 0.
train_dataloader:
  dataset: {transforms: {policy: {epoch: 117}}}
  collate_fn: {scales: ~}
"""
FILES = {
    "dataset/coco.yml": DATA,
    "runtime.yml": RUNTIME,
    "models/include/loader.yml": LOADER,
    "models/include/optimizer.yml": OPTIMIZER,
    "models/include/r50vd.yml": MODEL,
    "models/rtdetrv2_r50vd_6x_coco.yml": R50,
    "models/rtdetrv2_r18vd_120e_coco.yml": R18,
}


def write_files(root: Path) -> Path:
    """Write the files, spread over folders as the published ones are, and return the folder of the two models."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root / "models"


def write_over(root: Path, text: str, *, base: str = "rtdetrv2_r50vd_6x_coco.yml") -> Path:
    """Write a file that includes one of the models and says something else over it."""
    path = write_files(root) / "own.yml"
    path.write_text(f"__include__: ['./{base}']\n{text}\n")
    return path
