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
OLDER = """
criterion: SetCriterion
RTDETR:
  decoder: RTDETRTransformer
  multi_scale: [480, 512, 544, 576, 608, 640, 640, 640, 672, 704, 736, 768, 800]
PResNet: {depth: 18, freeze_at: -1, freeze_norm: False}
HybridEncoder: {in_channels: [128, 256, 512], expansion: 0.5, pe_temperature: 10000, eval_spatial_size: [640, 640]}
RTDETRTransformer:
  feat_channels: [256, 256, 256]
  feat_strides: [8, 16, 32]
  hidden_dim: 256
  num_levels: 3
  num_queries: 300
  num_decoder_layers: 3
  num_denoising: 100
  eval_idx: -1
  eval_spatial_size: [640, 640]
SetCriterion:
  weight_dict: {loss_vfl: 1, loss_bbox: 5, loss_giou: 2,}
  losses: ['vfl', 'boxes', ]
  alpha: 0.75
  gamma: 2.0
  matcher: {type: HungarianMatcher, weight_dict: {cost_class: 2, cost_bbox: 5, cost_giou: 2}, alpha: 0.25, gamma: 2.0}
optimizer:
  params:
    - {params: '^(?=.*backbone)(?=.*norm).*$', lr: 0.00001, weight_decay: 0.}
    - {params: '^(?=.*backbone)(?!.*norm).*$', lr: 0.00001}
    - {params: '^(?=.*(?:encoder|decoder))(?=.*(?:norm|bias)).*$', weight_decay: 0.}
lr_warmup_scheduler: ~
train_dataloader:
  batch_size: 4
  total_batch_size: ~
  collate_fn: ~
  dataset:
    transforms:
      ops:
        - {type: RandomPhotometricDistort, p: 0.5}
        - {type: RandomZoomOut, fill: 0}
        - {type: RandomIoUCrop, p: 0.8}
        - {type: SanitizeBoundingBox, min_size: 1}
        - {type: RandomHorizontalFlip}
        - {type: Resize, size: [640, 640]}
        - {type: ToImageTensor}
        - {type: ConvertDtype}
        - {type: SanitizeBoundingBox, min_size: 1}
        - {type: ConvertBox, out_fmt: cxcywh, normalize: True}
      policy: ~
"""
DEIM = """
model: DEIM
criterion: DEIMCriterion
postprocessor: PostProcessor
DEIM: {backbone: PResNet, encoder: HybridEncoder, decoder: RTDETRTransformerv2}
PostProcessor: {num_top_queries: 300}
PResNet: {freeze_at: -1, freeze_norm: False, local_model_dir: ../weights/}
HybridEncoder: {version: rt_detrv2}
RTDETRTransformerv2: {query_pos_method: as_reg, activation: silu, mlp_act: silu}
DEIMCriterion:
  weight_dict: {loss_vfl: 1, loss_bbox: 5, loss_giou: 2, loss_mal: 1}
  losses: ['mal', 'boxes', ]
  alpha: 0.75
  gamma: 1.5
  use_uni_set: False
  matcher: {type: HungarianMatcher, weight_dict: {cost_class: 2, cost_bbox: 5, cost_giou: 2}, alpha: 0.25, gamma: 2.0}
epoches: 60
ema: {start: 0}
lrsheduler: flatcosine
lr_gamma: 0.5
warmup_iter: 2000
flat_epoch: 34
no_aug_epoch: 2
optimizer:
  lr: 0.0002
  params:
    - {params: '^(?=.*backbone)(?!.*norm).*$', lr: 0.00002}
    - {params: '^(?=.*(?:norm|bn)).*$', weight_decay: 0.}
train_dataloader:
  dataset:
    transforms:
      ops:
        - {type: Mosaic, output_size: 320, rotation_range: 10, translation_range: [0.1, 0.1], scaling_range: [0.5, 1.5],
           probability: 1.0, fill_value: 0, use_cache: False, max_cached_images: 50, random_pop: True}
        - {type: RandomPhotometricDistort, p: 0.5}
        - {type: RandomZoomOut, fill: 0}
        - {type: RandomIoUCrop, p: 0.8}
        - {type: SanitizeBoundingBoxes, min_size: 1}
        - {type: RandomHorizontalFlip}
        - {type: Resize, size: [640, 640]}
        - {type: SanitizeBoundingBoxes, min_size: 1}
        - {type: ConvertPILImage, dtype: 'float32', scale: True}
        - {type: ConvertBoxes, fmt: 'cxcywh', normalize: True}
      policy:
        epoch: [4, 34, 58]
        ops: ['Mosaic', 'RandomPhotometricDistort', 'RandomZoomOut', 'RandomIoUCrop']
      mosaic_prob: 0.5
  collate_fn:
    scales: ~
    base_size: 640
    base_size_repeat: 3
    stop_epoch: 58
    mixup_prob: 0.5
    mixup_epochs: [4, 34]
"""
DEIM_R18 = """
PResNet: {depth: 18}
HybridEncoder: {in_channels: [128, 256, 512], expansion: 0.5}
RTDETRTransformerv2: {num_layers: 3}
epoches: 120
flat_epoch: 64
no_aug_epoch: 3
optimizer: {params: [{params: '^(?=.*(?:norm|bn)).*$', weight_decay: 0.}]}
train_dataloader:
  dataset: {transforms: {policy: {epoch: [4, 64, 117]}}}
  collate_fn: {stop_epoch: 117, mixup_epochs: [4, 64]}
"""
FILES = {
    "dataset/coco.yml": DATA,
    "runtime.yml": RUNTIME,
    "models/include/loader.yml": LOADER,
    "models/include/optimizer.yml": OPTIMIZER,
    "models/include/r50vd.yml": MODEL,
    "models/rtdetrv2_r50vd_6x_coco.yml": R50,
    "models/rtdetr_r18vd_6x_coco.yml": "__include__: ['./rtdetrv2_r50vd_6x_coco.yml']" + OLDER,
    "models/deim_r50vd_60e_coco.yml": "__include__: ['./rtdetrv2_r50vd_6x_coco.yml']" + DEIM,
    "models/deim_r18vd_120e_coco.yml": "__include__: ['./deim_r50vd_60e_coco.yml']" + DEIM_R18,
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
