#!/usr/bin/env bash
# Trains with one or several processes on this machine and restarts them after failures
# that a restart fixes:
#
#   bash launch/multiprocess.sh [OPTIONS] -- train --config=FILE --workdir=DIR ...
#
#   --processes=N    number of processes that train together; default 1. The GPUs of the
#                    machine are divided among them: one GPU each if N is their number.
#   --cpu_devices=K  faked CPU devices of each process; needed for N > 1 without GPUs
#   --restarts=R     maximum number of restarts in a row without a new checkpoint; default 10
#   --dry_run        print the commands instead of running them
#   --help           print this text
#
# All processes are restarted together after exit codes 70 (no progress, or an internal
# error), 75 (SIGTERM to a process: saved), 134 (lost another process), 137 (killed) and
# 143 (SIGTERM before Python ran). Any other code ends them for good: 2 and 3 would recur.
#
# The exit code is 0 if all processes ended with 0; else that of the first process to
# fail with a code that no restart fixes; else that of the first process to fail.
#
# SIGTERM, SIGHUP and Ctrl-C are forwarded to all processes, which save and end; there is
# no restart after them. When one process fails, the others are killed after a minute,
# even if they are suspended. No process is left behind. If this script itself is killed
# by SIGKILL, the processes receive SIGTERM (Linux) or train on without it (macOS); the
# lock of the work directory refuses a second run until they end.
#
# The lines of all processes go to stderr and to DIR/logs/merged.log, each with the index
# of its process: `[0] step 100 ...`.
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

PROCESSES=1 RESTARTS=10 CPU_DEVICES=""
while [ $# -gt 0 ]; do
  case $1 in
    --processes=*) PROCESSES=${1#*=} ;;
    --cpu_devices=*) CPU_DEVICES=${1#*=} ;;
    --restarts=*) RESTARTS=${1#*=} ;;
    --)
      shift
      break
      ;;
    *) take_common_option "$1" ;;
  esac
  shift
done
require_number --processes "$PROCESSES" 1
require_number --restarts "$RESTARTS" 0
[ -z "$CPU_DEVICES" ] || require_number --cpu_devices "$CPU_DEVICES" 1
require_train "$@"
for argument in "$@"; do
  case ${argument%%=*} in
    --cpu_devices) [ -z "$CPU_DEVICES" ] || fail "--cpu_devices is given before and after --; leave out that after --" ;;
    --coordinator | --num_processes | --process_index)
      [ "$PROCESSES" -eq 1 ] || fail "${argument%%=*} after -- is set by --processes=$PROCESSES; leave it out"
      ;;
  esac
done

gpus_each=0
if [ "$PROCESSES" -gt 1 ] && [ -z "$CPU_DEVICES" ]; then
  gpus=$(num_gpus)
  [ "$gpus" -gt 0 ] || fail "--processes=$PROCESSES without an NVIDIA GPU needs --cpu_devices=K; one process drives all TPUs of a machine"
  [ $((gpus % PROCESSES)) -eq 0 ] || fail "--processes=$PROCESSES must divide the number of GPUs, which is $gpus"
  gpus_each=$((gpus / PROCESSES))
fi

make_environment "$(training_extras)"
supervisor=("$REPOSITORY/launch/process_group.py" --processes="$PROCESSES" --restarts="$RESTARTS"
  ${CPU_DEVICES:+"--cpu_devices=$CPU_DEVICES"} --gpus_each="$gpus_each")
is_dry_run || exec python "${supervisor[@]}" -- "$@"
show_command python "${supervisor[@]}" -- "$@"
# Any Python prints the commands that the supervisor starts.
command -v "${PYTHON:-python}" >/dev/null || fail "the commands of the processes are printed once this machine has Python"
"${PYTHON:-python}" "${supervisor[@]}" --dry_run -- "$@"
