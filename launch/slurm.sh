#!/usr/bin/env bash
# Trains on SLURM with one process per node, which uses all GPUs of the node. From the repository root:
#
#   sbatch [--nodes=N ...] launch/slurm.sh --config=FILE --workdir=DIR
#   bash launch/slurm.sh --dry_run --config=FILE --workdir=DIR
#
# The repository and DIR must be on a file system that all nodes share.
#
#SBATCH --job-name=jaxdp
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
# Not --gpus-per-task, which would hide GPUs from the process.
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
# SIGTERM 300 s before the time limit, for a last checkpoint; the processes exit with 75.
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=jaxdp-%j.log
set -euo pipefail
# SLURM runs a copy of this file, so the repository is the directory of the sbatch call.
# shellcheck source=launch/environment.sh
. "${SLURM_SUBMIT_DIR:-$(dirname -- "${BASH_SOURCE[0]}")/..}/launch/environment.sh"
if [ "${1:-}" = --dry_run ]; then
  export JAXDP_DRY_RUN=1
  shift
fi

make_environment "$(hardware_extra)"
# Under SLURM jax.distributed gives a process one GPU unless JAX_LOCAL_DEVICE_IDS is set.
gpus=${SLURM_GPUS_ON_NODE:-0}
JAX_LOCAL_DEVICE_IDS=$([ "$gpus" -eq 0 ] || seq -s , 0 $((gpus - 1)))
export JAX_LOCAL_DEVICE_IDS

status=0
# Without --cpu-bind=none many clusters pin the task of a node to one core. --wait kills the
# remaining tasks 300 s after the first one has ended, even if they are suspended.
execute srun --cpu-bind=none --wait=300 jaxdp train "$@" || status=$?
case $status in
  70 | 75 | 134 | 137 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$status"
