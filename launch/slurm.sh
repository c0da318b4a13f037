#!/usr/bin/env bash
# One process a node, which drives all of the node's GPUs. From the repository's root:
#
#   sbatch [--nodes=N ...] launch/slurm.sh --config=FILE --workdir=DIR
#   bash launch/slurm.sh --dry_run --config=FILE --workdir=DIR
#
# The repository and DIR must lie where every node sees them.
#
#SBATCH --job-name=jaxdp
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
# Not --gpus-per-task: it would hide GPUs from their process.
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
# SIGTERM to the processes in time for a last checkpoint; they exit with 75.
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=jaxdp-%j.log
set -euo pipefail
# SLURM runs a copy of this file, so the repository is where sbatch was called.
# shellcheck source=launch/environment.sh
. "${SLURM_SUBMIT_DIR:-$(dirname -- "${BASH_SOURCE[0]}")/..}/launch/environment.sh"
if [ "${1:-}" = --dry_run ]; then
  export JAXDP_DRY_RUN=1
  shift
fi

make_environment "$(hardware_extra)"
# Under SLURM jax.distributed gives a process one GPU unless told its devices.
gpus=${SLURM_GPUS_ON_NODE:-0}
JAX_LOCAL_DEVICE_IDS=$([ "$gpus" -eq 0 ] || seq -s , 0 $((gpus - 1)))
export JAX_LOCAL_DEVICE_IDS

status=0
# Without --cpu-bind=none many clusters pin the one task of a node to one core. The last of
# --wait: tasks that are left after the first one has ended are killed, also stopped ones.
execute srun --cpu-bind=none --wait=300 jaxdp train "$@" || status=$?
case $status in
  70 | 75 | 134 | 137 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$status"
