"""Command lines and configurations in the shape of those that people publish, written for these tests."""

MEGATRON_DENSE = r"""#!/bin/bash
# Pretrains a small model on two nodes.
export CUDA_DEVICE_MAX_CONNECTIONS=1

GPUS_PER_NODE=8
NUM_NODES=${NUM_NODES:-2}
MASTER_ADDR=localhost
WORLD_SIZE=$(($GPUS_PER_NODE*$NUM_NODES))

CHECKPOINT_PATH=$1 #<Specify path>
DATA_PATH=$2

DISTRIBUTED_ARGS=(
    --nproc_per_node $GPUS_PER_NODE
    --nnodes $NUM_NODES
    --master_addr $MASTER_ADDR
    --master_port 6000
)

GPT_MODEL_ARGS=(
    --num-layers 32
    --hidden-size 4096
    --ffn-hidden-size 14336
    --num-attention-heads 32
    --group-query-attention
    --num-query-groups 8
    --seq-length 4096
    --max-position-embeddings 4096
    --position-embedding-type rope
    --normalization RMSNorm
    --swiglu
    --disable-bias-linear
    --untie-embeddings-and-output-weights
    --vocab-size 128256
)

TRAINING_ARGS=(
    --micro-batch-size 1
    --global-batch-size 64
    --train-iters 500000
    --weight-decay 0.1
    --lr 6.0e-5
    --bf16
    --clip-grad 1.0
)

MODEL_PARALLEL_ARGS=(
	--tensor-model-parallel-size 2
	--pipeline-model-parallel-size 2
    --sequence-parallel
    --use-distributed-optimizer
)

torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py \
    ${GPT_MODEL_ARGS[@]} \
    ${TRAINING_ARGS[@]} \
    ${MODEL_PARALLEL_ARGS[@]} \
    --data-path $DATA_PATH --split 949,50,1 \
    --log-interval 100 --save $CHECKPOINT_PATH --save-interval 10000
"""

MEGATRON_EXPERTS = """
torchrun --nnodes=2 --nproc-per-node=8 pretrain_gpt.py --use-mcore-models --num-layers 32 --hidden-size 4096
 --num-attention-heads 32 --ffn-hidden-size 14336 --group-query-attention --num-query-groups 8 --vocab-size 32000
 --num-experts 8 --moe-router-topk 2 --moe-ffn-hidden-size 14336 --moe-grouped-gemm --moe-permute-fusion
 --moe-router-load-balancing-type aux_loss --moe-aux-loss-coeff 1e-2 --moe-token-dispatcher-type alltoall
 --expert-model-parallel-size 8 --expert-tensor-parallel-size 1
 --normalization RMSNorm --swiglu --disable-bias-linear --position-embedding-type rope
 --max-position-embeddings 32768 --untie-embeddings-and-output-weights --seq-length 4096 --micro-batch-size 1
 --global-batch-size 128 --bf16 --tensor-model-parallel-size 1 --pipeline-model-parallel-size 2
 --num-layers-per-virtual-pipeline-stage 8 --use-distributed-optimizer --overlap-grad-reduce
 --overlap-param-gather --recompute-granularity selective --recompute-modules core_attn moe_act
""".replace("\n ", " \\\n ")

MEGATRON_GPT3 = """
python -m torch.distributed.launch --nproc_per_node 8 --nnodes 2 pretrain_gpt.py --num-layers 40 --hidden-size 5120 \\
  --num-attention-heads 40 --seq-length 2048 --max-position-embeddings 2048 --vocab-size 50257 --micro-batch-size 2 \\
  --global-batch-size 64 --fp16 --tensor-model-parallel-size 8 --recompute-granularity full --recompute-method block \\
  --recompute-num-layers 20 --lr 1.0e-4 --min-lr 1.0e-5 --lr-decay-style cosine --data-path my-data 2>&1 | tee log.txt
"""

DEEPSPEED_ZERO3 = """{
  "bf16": {"enabled": true},
  "zero_optimization": {
    "stage": 3,
    "overlap_comm": true,
    "contiguous_gradients": true,
    "sub_group_size": 1e9,
    "reduce_bucket_size": 5e8,
    "stage3_prefetch_bucket_size": 5e7,
    "stage3_param_persistence_threshold": 1e5,
    "stage3_gather_16bit_weights_on_model_save": true
  },
  "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
  "gradient_accumulation_steps": 2,
  "gradient_clipping": 1.0,
  "steps_per_print": 2000,
  "train_batch_size": "auto",
  "train_micro_batch_size_per_gpu": 2,
  "wall_clock_breakdown": false
}"""

DEEPSPEED_OFFLOAD = """{
  "train_batch_size": 64,
  "gradient_accumulation_steps": 4,
  "fp16": {"enabled": true, "initial_scale_power": 16, "loss_scale_window": 1000},
  "zero_optimization": {
    "stage": 2,
    "offload_optimizer": {"device": "cpu", "pin_memory": true},
    "allgather_partitions": true,
    "allgather_bucket_size": 2e8
  },
  "activation_checkpointing": {"partition_activations": false, "contiguous_memory_optimization": false}
}"""

TORCHTITAN_FSDP = """
[job]
dump_folder = "./outputs"
description = "Llama 3 8B training"

[metrics]
log_freq = 10
enable_tensorboard = true

[model]
name = "llama3"
flavor = "8B"
hf_assets_path = "./assets/hf/Llama-3.1-8B"

[optimizer]
name = "AdamW"
lr = 3e-4
eps = 1e-8

[lr_scheduler]
warmup_steps = 200

[training]
local_batch_size = 1
seq_len = 8192
max_norm = 1.0
steps = 1000
dataset = "c4"

[parallelism]
data_parallel_replicate_degree = 1
data_parallel_shard_degree = -1
tensor_parallel_degree = 1
pipeline_parallel_degree = 1
context_parallel_degree = 1

[checkpoint]
enable = false
interval = 500

[compile]
enable = true
components = ["model", "loss"]

[activation_checkpoint]
mode = "selective"
selective_ac_option = "op"

[quantize.linear.float8]
enable_fsdp_float8_all_gather = false
filter_fqns = ["output"]
"""

TORCHTITAN_3D = """
[model]
name = "llama3"
flavor = "8B"
converters = ["quantize.linear.float8"]

[training]
local_batch_size = 8
seq_len = 8192

[parallelism]
data_parallel_shard_degree = 4
tensor_parallel_degree = 2
enable_async_tensor_parallel = false
pipeline_parallel_degree = 2
pipeline_parallel_schedule = "Interleaved1F1B"

[activation_checkpoint]
mode = "full"

[quantize.linear.float8]
enable_fsdp_float8_all_gather = true
precompute_float8_dynamic_scale_for_fsdp = true
filter_fqns = ["output"]
"""

ACCELERATE_FSDP1 = """compute_environment: LOCAL_MACHINE
debug: false
distributed_type: FSDP
downcast_bf16: 'no'
fsdp_config:
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_backward_prefetch: BACKWARD_PRE
  fsdp_cpu_ram_efficient_loading: true
  fsdp_forward_prefetch: false
  fsdp_offload_params: false
  fsdp_sharding_strategy: HYBRID_SHARD
  fsdp_state_dict_type: SHARDED_STATE_DICT
  fsdp_sync_module_states: true
  fsdp_use_orig_params: true
machine_rank: 0
main_training_function: main
mixed_precision: bf16
num_machines: 2
num_processes: 16
rdzv_backend: static
same_network: true
use_cpu: false
"""

ACCELERATE_FSDP2 = """distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
  fsdp_reshard_after_forward: true
  fsdp_activation_checkpointing: true
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
parallelism_config:
  parallelism_config_dp_replicate_size: 1
  parallelism_config_dp_shard_size: 4
  parallelism_config_tp_size: 2
  parallelism_config_cp_size: 2
  parallelism_config_cp_comm_strategy: alltoall
mixed_precision: bf16
num_machines: 2
num_processes: 16
"""

NEMO = """model:
  tensor_model_parallel_size: 2
  pipeline_model_parallel_size: 2
  virtual_pipeline_model_parallel_size: 4
  context_parallel_size: 2
  sequence_parallel: true
  seq_length: 8192
  num_layers: 32
train:
  global_batch_size: 64
  micro_batch_size: 1
  train_iters: 100
ddp:
  use_distributed_optimizer: true
  overlap_grad_reduce: true
mixed_precision: bf16_with_fp8_delayed_scaling_mixed
scheduler:
  lr_warmup_iters: 10
"""
