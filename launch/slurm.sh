#!/usr/bin/env bash
# Trains on SLURM with one process per node, which uses all GPUs of the node, or with
# one process per GPU. From the repository root; all nodes must share it, and DIR as well
# unless that is a URL in object storage:
#
#   sbatch [--nodes=N ...] launch/slurm.sh [OPTIONS] -- train --config=FILE --workdir=DIR ...
#
#   --restarts=R  maximum number of times that the job is requeued after exit codes 70,
#                 134, 137 and 143; default 10. Exit code 75 always requeues it.
#   --dry_run     print the commands instead of running them: bash launch/slurm.sh --dry_run ...
#   --help        print this text
#
# Options of sbatch take precedence over those below: --ntasks-per-node=8 starts one
# process per GPU, --gpus-per-node=0 trains on CPUs.
#
# SLURM sends SIGTERM 300 s before the time limit. All processes then save, end with 75,
# and the job is requeued; so it is after a preemption. The run receives the 300 s
# as checkpoint.grace_secs; with another --signal=B:TERM@SECS give
# --config.checkpoint.grace_secs=SECS among the arguments. After `scancel JOB` the processes
# save as well, within the KillWait of the cluster, and the job ends. The exit code is
# that of srun: the largest one of all processes.
#SBATCH --job-name=jaxdp
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
# Not --gpus-per-task, which hides the other GPUs of the node and breaks NCCL's transport.
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=jaxdp-%j.log
set -euo pipefail
# SLURM runs a copy of this file, so the repository is the directory of the sbatch call.
repository=${SLURM_SUBMIT_DIR:-$(dirname -- "${BASH_SOURCE[0]}")/..}
if [ ! -e "$repository/launch/environment.sh" ]; then
  echo "jaxdp: $repository is not the repository; run sbatch in its root" >&2
  exit 2
fi
# shellcheck source=launch/environment.sh
. "$repository/launch/environment.sh"

RESTARTS=10 GRACE=300 # that of --signal above
while [ $# -gt 0 ]; do
  case $1 in
    --restarts=*) RESTARTS=${1#*=} ;;
    --)
      shift
      break
      ;;
    *) take_common_option "$1" ;;
  esac
  shift
done
require_number --restarts "$RESTARTS" 0
require_train "$@"
require_program srun "submit this script with sbatch on a SLURM cluster"
is_dry_run || [ -n "${SLURM_JOB_ID:-}" ] || fail "this is no SLURM job: submit this script with sbatch"

# Outside of a job, a dry run is that of a node with the GPUs requested above.
gpus=${SLURM_GPUS_ON_NODE:-8} tasks=${SLURM_NTASKS_PER_NODE:-1}
[ -z "${SLURM_JOB_ID:-}" ] || gpus=${SLURM_GPUS_ON_NODE:-0}
variables=()
if [ "$tasks" -eq 1 ]; then
  # Under SLURM jax.distributed gives a process one GPU unless JAX_LOCAL_DEVICE_IDS is set.
  [ "$gpus" -eq 0 ] || variables=(env "JAX_LOCAL_DEVICE_IDS=$(seq -s , 0 $((gpus - 1)))")
elif [ "$gpus" -ne 0 ] && [ "$gpus" -ne "$tasks" ]; then
  fail "--ntasks-per-node=$tasks must be 1 or the number of GPUs of a node, which is $gpus"
fi
make_environment "$(training_extras)"

# Without --cpu-bind=none many clusters pin a task to one core. A process that ends must
# not stop the others, which may still save: 300 s later --wait kills them, even if they
# are suspended.
set_grace_option "$GRACE" "$@"
step=(${variables[@]+"${variables[@]}"} srun --label --cpu-bind=none --kill-on-bad-exit=0 --wait=300 jaxdp "$@"
  ${GRACE_OPTION[@]+"${GRACE_OPTION[@]}"})
requeue=(scontrol requeue "${SLURM_JOB_ID:-JOB}")
if is_dry_run; then
  show_command "${step[@]}"
  say "after exit code 75, and up to $RESTARTS times after 70, 134, 137 and 143: $(show_command "${requeue[@]}")"
  exit 0
fi

# srun answers SIGTERM by killing its tasks, so scancel sends it to them. It fails in a
# cancelled job, whose tasks have received SIGTERM from SLURM.
trap 'scancel --signal=TERM "$SLURM_JOB_ID" || true' TERM
"${step[@]}" &
pid=$! status=0
wait "$pid" || status=$?
while kill -0 "$pid" 2>/dev/null; do # a signal ended `wait`
  status=0
  wait "$pid" || status=$?
done

case $status in
  75) ;;
  70 | 134 | 137 | 143)
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "$RESTARTS" ]; then
      say "exit code $status; the job was requeued ${SLURM_RESTART_COUNT:-0} times, and --restarts=$RESTARTS"
      exit "$status"
    fi
    ;;
  *) exit "$status" ;;
esac
# A cancelled job is not RUNNING any more, and would start again if it were requeued.
if [ "$(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID")" = RUNNING ]; then
  say "exit code $status; requeuing"
  "${requeue[@]}"
fi
exit "$status"
