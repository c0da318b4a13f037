#!/usr/bin/env bash
# Trains on every host of a Cloud TPU slice:
#
#   bash launch/tpu_pod.sh [--dry_run] TPU_NAME ZONE --config=FILE --workdir=DIR
#
# FILE is relative to the repository root; DIR must be on a file system that all
# hosts share. The hosts need Python 3.11 or newer, or uv. After an interruption the
# same command continues the run.
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
if [ "${1:-}" = --dry_run ]; then
  export JAXDP_DRY_RUN=1
  shift
fi
[ $# -ge 3 ] || fail "expected TPU_NAME ZONE and the arguments of jaxdp train, found $# arguments"
tpu=$1 zone=$2
shift 2

cd -- "$REPOSITORY"
execute gcloud compute tpus tpu-vm ssh "$tpu" --zone="$zone" --worker=all --command="mkdir -p jaxdp"
execute gcloud compute tpus tpu-vm scp --recurse pyproject.toml README.md jaxdp configs launch "$tpu:jaxdp/" --zone="$zone" --worker=all
become gcloud compute tpus tpu-vm ssh "$tpu" --zone="$zone" --worker=all --command="cd jaxdp && bash launch/local.sh train $(show_command "$@")"
